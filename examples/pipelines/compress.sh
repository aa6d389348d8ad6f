#!/usr/bin/env bash
# One compression in a pipeline, for the files beside this one:
#
#   compress.sh NAME TEACHER FOLDER [option of `litc compress`]...
#
# NAME is the same whenever the pipeline repeats this run, and another one for each other run. If a job of this name
# waits, runs or has succeeded, it is continued; otherwise a new one is created. So a retry trains nothing twice.
# The student goes to FOLDER, and the job to job.json. LIT_URL and LIT_API_KEY say which service.
# Exit codes are those of `litc compress`: 0 accepted, 1 failed, 2 a wrong request, 3 not accepted.
set -euo pipefail

name=$1 teacher=$2 folder=$3
shift 3

job=$(litc jobs --name "$name" --json | python3 -c '
import json, sys

usable = {"queued", "running", "succeeded"}
print(next((job["id"] for job in json.load(sys.stdin) if job["state"] in usable), ""))')

code=0
if [ -z "$job" ]; then
  litc compress "$teacher" --output "$folder" --name "$name" --json "$@" >job.json || code=$?
else
  echo "A job of this run exists: $job" >&2
  litc job "$job" --wait --json >job.json || code=$?
  case $code in 0 | 3) litc download "$job" --output "$folder" >&2 ;; esac
fi
exit "$code"
