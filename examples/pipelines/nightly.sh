#!/usr/bin/env bash
# Compress a teacher every night, with curl and jq alone:
#
#   nightly.sh REQUEST TEACHER FOLDER [DATASET]
#
# REQUEST is a JSON file with the body of POST /v1/jobs, without `teacher`; with DATASET, a file, also without
# `dataset.upload`. The student goes to FOLDER/JOB, and FOLDER/latest is the newest student that was accepted.
# LIT_URL and LIT_API_KEY say which service. RUN names this run; by default it is the date (UTC). A second call in the
# same run with the same files continues the first one's job. HOURS is how long to wait; by default 12.
# Exit codes: 0 accepted, 1 failed, cancelled, not accepted or unreachable, 2 wrong use.
set -euo pipefail
shopt -s inherit_errexit

readonly URL=${LIT_URL:-http://127.0.0.1:8000}
readonly PIECE=$((64 * 1024 * 1024)) # bytes in one request; curl keeps them in memory

ANSWER=$(mktemp)
trap 'rm --force "$ANSWER"' EXIT

fail() {
  echo "nightly.sh: $1" >&2
  exit "${2:-1}"
}

# The key goes through a file descriptor, because the process list shows arguments.
request() {
  curl --silent --show-error --max-time 600 --config <(
    if [ -n "${LIT_API_KEY:-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "$LIT_API_KEY"; fi
  ) "$@"
}

# What the service says is wrong.
detail() { jq --raw-output '.detail // .title // empty' 2>/dev/null || true; }

# Prints the answer's body, or fails with what the service says. By a file, because a retry then begins it anew.
call() {
  : >"$ANSWER"
  if ! request --fail-with-body --retry 6 --retry-connrefused --output "$ANSWER" "$@"; then
    detail <"$ANSWER" >&2
    return 1
  fi
  cat "$ANSWER"
}

# post PATH BODY [option of curl]...
post() { call "$URL$1" --header 'Content-Type: application/json' --data "$2" "${@:3}"; }

# upload FILE KIND: send what the service does not have yet, and print the upload's id.
upload() {
  local file=$1 kind=$2 size announced id offset answer misses=0
  size=$(stat --format %s "$file")
  announced=$(jq --null-input --arg kind "$kind" --arg filename "$(basename "$file")" --argjson size "$size" \
    --arg sha256 "$(sha256sum "$file" | cut -d ' ' -f 1)" '{$kind, $filename, $size, $sha256}')
  id=$(post /v1/uploads "$announced" | jq --raw-output .id)
  while true; do
    offset=$(call "$URL/v1/uploads/$id" | jq .received)
    [ "$offset" -lt "$size" ] || break
    answer=$(dd if="$file" iflag=skip_bytes,count_bytes skip="$offset" count="$PIECE" bs=1M status=none |
      request --write-out '\n%{http_code}' --request PATCH "$URL/v1/uploads/$id" --header "Upload-Offset: $offset" \
        --header 'Content-Type: application/octet-stream' --data-binary @- || true)
    case ${answer##*$'\n'} in
      204) misses=0 ;;
      # The connection broke or the service is busy: go on from where the service says.
      000 | 409 | 429 | 5??)
        misses=$((misses + 1))
        [ "$misses" -lt 6 ] || fail "$file could not be sent: 6 tries in a row failed."
        sleep $((2 ** misses))
        ;;
      *) fail "$file is refused: $(detail <<<"${answer%$'\n'*}")" ;;
    esac
  done
  while [[ $(call "$URL/v1/uploads/$id?wait=30" | jq --raw-output .inspection_state) =~ pending|running ]]; do :; done
  echo "$id"
}

case $# in 3 | 4) ;; *) fail 'usage: nightly.sh REQUEST TEACHER FOLDER [DATASET]' 2 ;; esac
for file in "$1" "$2" ${4:+"$4"}; do
  [ -r "$file" ] || fail "$file can't be read." 2
done
readonly REQUEST=$1 TEACHER=$2 FOLDER=$3 DATASET=${4:-}

teacher=$(upload "$TEACHER" teacher)
body=$(jq --compact-output --sort-keys --arg teacher "$teacher" '. + {$teacher}' "$REQUEST")
if [ -n "$DATASET" ]; then
  dataset=$(upload "$DATASET" dataset)
  body=$(jq --compact-output --arg dataset "$dataset" '.dataset.upload = $dataset' <<<"$body")
fi

# The same run and the same request: the same key, and so the same job.
key="nightly/${RUN:-$(date --utc +%F)}/$(sha256sum <<<"$body" | cut -c 1-16)"
job=$(post /v1/jobs "$body" --header "Idempotency-Key: $key" | jq --raw-output .id)
echo "$job"

state=queued
while true; do
  # A poll may fail, for example while the service restarts.
  if answer=$(call "$URL/v1/jobs/$job?wait=30"); then
    state=$(jq --raw-output .state <<<"$answer")
  else
    sleep 10
  fi
  case $state in succeeded | failed | cancelled) break ;; esac
  [ "$SECONDS" -lt $((${HOURS:-12} * 3600)) ] || fail "$job is still $state after ${HOURS:-12} hours. It continues."
done
[ "$state" = succeeded ] || fail "$job $state: $(jq --raw-output '.error.detail // "somebody cancelled it"' <<<"$answer")"

if [ ! -d "$FOLDER/$job" ]; then
  # Under another name until it is complete, so that nobody reads half a student.
  part="$FOLDER/.$job.part"
  mkdir --parents "$part"
  files=$(call "$URL/v1/jobs/$job/artifacts")
  while read -r href name; do
    request --fail --retry 6 --retry-connrefused --max-time 0 --create-dirs --output "$part/$name" "$URL$href"
  done < <(jq --raw-output '.items[] | "\(.href) \(.name)"' <<<"$files")
  jq --raw-output '.items[] | "\(.sha256)  \(.name)"' <<<"$files" | (cd "$part" && sha256sum --check --quiet --strict) ||
    fail "The files of $job did not arrive as the service has them. Run the command again."
  mv "$part" "$FOLDER/$job"
fi

jq --raw-output '.result | "teacher \(.teacher.accuracy.test) %, student \(.student.accuracy.test) %"' <<<"$answer"
[ "$(jq .accepted <<<"$answer")" != false ] || fail "The student of $job is not accepted; it is in $FOLDER/$job."
ln --symbolic --force --no-dereference "$job" "$FOLDER/latest"
