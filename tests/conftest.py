"""Settings for all tests."""

from hypothesis import settings

settings.register_profile("project", parent=settings(), deadline=None)  # a busy machine must not fail a test
settings.load_profile("project")
