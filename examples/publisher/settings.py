"""Django's settings, read by the site and, for its sessions, by wsworker."""

from pathlib import Path

# made by: (umask 077; openssl rand -hex 32 > secret.key)
SECRET_KEY = Path(__file__).with_name("secret.key").read_text().strip()
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "web"
TIME_ZONE = "UTC"  # Django sets it for the whole process; without this the worker logs the time of Chicago
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
# a session is in its signed cookie, so the example needs no database; any other engine does as well
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
SESSION_COOKIE_SAMESITE = "Strict"
