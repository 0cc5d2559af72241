#!/bin/sh
# Makes a certificate for this machine, valid for a month, that only those who are told to trust it trust.
set -eu
cd "$(dirname "$0")"
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj "/CN=localhost" -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" \
    -keyout key.pem -out certificate.pem
