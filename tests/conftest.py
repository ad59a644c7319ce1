"""Settings for all tests."""

from hypothesis import settings

settings.register_profile("project", parent=settings(), deadline=None)  # a busy machine is not a failure
settings.load_profile("project")
