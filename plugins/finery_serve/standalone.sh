#!/bin/sh
# Serves the model. SERVE_HOST, SERVE_PORT and SERVE_KEY say where and for whom, PYTHON names the
# interpreter.
set -eu
cd "$(dirname "$0")"
exec "${PYTHON:-python3}" server.py "$@"
