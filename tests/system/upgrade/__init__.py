"""The real daemon, upgraded: another version takes over in its process, and its clients go on."""
