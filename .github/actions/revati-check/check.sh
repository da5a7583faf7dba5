#!/usr/bin/env bash
# Runs `revati check` and hands its verdict to GitHub. Inputs come in the environment: see action.yml.
set -euo pipefail

: "${REVATI_CASES:?the input 'cases' is missing}"
work=${REVATI_WORK:-.revati-check}
junit=$work/junit.xml
markdown=$work/summary.md
mkdir -p "$work"
rm -f "$markdown"

# Words are meant to split here: these are lists in one string, as GitHub hands them over.
read -r -a cases <<<"$REVATI_CASES"
read -r -a arguments <<<"${REVATI_ARGUMENTS:-}"

code=0
revati check "${cases[@]}" --baseline "${REVATI_BASELINE:-revati-baseline.json}" --work "$work" \
  --junit "$junit" --markdown "$markdown" "${arguments[@]}" || code=$?

case $code in
  0) verdict=pass ;;
  1) verdict=regression ;;
  3) verdict=not-comparable ;;
  *) verdict=unusable ;;
esac

if [[ -n ${GITHUB_OUTPUT:-} ]]; then
  {
    echo "verdict=$verdict"
    echo "junit=$junit"
  } >>"$GITHUB_OUTPUT"
fi
if [[ -n ${GITHUB_STEP_SUMMARY:-} && -f $markdown ]]; then
  cat "$markdown" >>"$GITHUB_STEP_SUMMARY"
fi
exit "$code"
