"""The only code that touches the native library. Nothing here knows about requests, frames or chats."""
