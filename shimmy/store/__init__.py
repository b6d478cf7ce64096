"""Models from elsewhere: how they come here, and how they are kept."""
