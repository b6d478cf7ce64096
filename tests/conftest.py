"""For all tests: hypothesis without deadlines, because the machine may be busy with other things. `make test-fast`
takes the profile with fewer examples."""

import hypothesis

hypothesis.settings.register_profile("shimmy", deadline=None, max_examples=200)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=15)
hypothesis.settings.load_profile("shimmy")
