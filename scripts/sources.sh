# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Read by scripts/lint.sh and scripts/format.sh, in the root of the repository.

# sources [ENDING...]: the text files of the repository, each followed by a null byte; only those that end in .ENDING or are
# called ENDING. In a git work tree what is tracked, or new and not ignored; else all but build folders.
sources() {
    local endings=("$@") file ending
    {
        if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$PWD" ]; then
            git ls-files -z --cached --others --exclude-standard
        else
            find . -name '.?*' -prune -o -name 'build*' -type d -prune -o -name __pycache__ -prune -o -type f -printf '%P\0'
            find .ci .github -type f -print0 2>/dev/null || true  # of the hidden folders these alone
        fi
    } | while IFS= read -r -d '' file; do
        [ -f "$file" ] || continue
        if [ ${#endings[@]} -eq 0 ]; then
            case "$file" in
                *.safetensors | *.png | *.npy | *.bin) continue ;;
            esac
            printf '%s\0' "$file"
        fi
        for ending in "${endings[@]}"; do
            if [[ "$file" == *".$ending" || "${file##*/}" == "$ending" ]]; then
                printf '%s\0' "$file"
                break
            fi
        done
    done
}
