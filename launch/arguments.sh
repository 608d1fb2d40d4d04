# shellcheck shell=bash disable=SC2034,SC2154
# The words of a script before the fields; sourced by all of them, from the root of ctjax,
# with the script's name in `script`. Sets `configuration` and, for --dry-run, `dry`.
usage="usage: $script [--dry-run] CONFIGURATION [FIELDS...]"
case ${1:-} in
    -h | --help)
        printf '%s\n\n' "$usage"
        # What stands at the head of the script.
        awk 'NR > 1 { if (!/^#( |$)/) exit; sub(/^# ?/, ""); print }' "$script"
        exit
        ;;
esac
dry=
if [ "${1:-}" = --dry-run ]; then dry=yes; shift; fi
if [ "$#" -eq 0 ]; then echo "$usage; --help tells more" >&2; exit 1; fi
configuration=$1
shift

# Says beside the command of a dry run how many processes it starts, on what.
describe() {
    if [ -n "$dry" ]; then printf '%s: %s\n' "$script" "$*" >&2; fi
}
