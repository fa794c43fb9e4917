#!/bin/sh
# Serves the model. SERVE_HOST, SERVE_PORT and SERVE_KEY say where and for whom, PYTHON names the
# interpreter. SERVE_FROM is the folder that a relative --log is in.
set -eu
export SERVE_FROM="$PWD"
cd "$(dirname "$0")"
exec "${PYTHON:-python3}" server.py "$@"
