#!/bin/sh
# Answers questions about documents, with their sources: sh run.sh --help
# PYTHON says which Python, LLAMA_SERVER which llama-server.
set -eu
cd "$(dirname "$0")"
PYTHON="${PYTHON:-python3}"
"$PYTHON" -P -c "import finery_retrieve" 2>/dev/null || {
    echo "error: $PYTHON must be Python 3.11 or newer, with the packages of requirements.txt:" >&2
    echo "  $PYTHON -m pip install -r requirements.txt (the variable PYTHON names another)" >&2
    exit 2
}
[ -z "${LLAMA_SERVER:-}" ] || export FINERY_LLAMA_CPP="$LLAMA_SERVER"
exec "$PYTHON" -P -m finery_retrieve.serve "$@"
