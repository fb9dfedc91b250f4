__fumehood_status=$?
\builtin trap - DEBUG ERR
if [[ ! -v __fumehood_done && -k /proc/self/fd/63 ]]; then {
__fumehood_done=1 __fumehood_B=$BASHOPTS __fumehood_O=$SHELLOPTS
\builtin set +aefuvx
__fumehood_names=(@NAMES@)
\builtin printf "%s\0" fumehood-1 "$PWD" "$OLDPWD"
for __fumehood_n in "${__fumehood_names[@]}"; do
[[ $__fumehood_n == __fumehood_* || ${!__fumehood_n@a} != *x* ]] || \builtin printf "%s=%s\0" "$__fumehood_n" "${!__fumehood_n}"
done
\builtin printf "\0"
if [[ $__fumehood_mode == *e* ]]; then
\builtin printf "%s\0" "b$__fumehood_b" "B$__fumehood_B" "o$__fumehood_o" "O$__fumehood_O"
for __fumehood_n in "${__fumehood_names[@]}"; do
case $__fumehood_n in __fumehood_*|BASH*|COMP_*|EPOCH*|DIRSTACK|EUID|FUNCNAME|GROUPS|HISTCMD|HOSTNAME|HOSTTYPE|LINENO|MACHTYPE|OLDPWD|OPTERR|OPTIND|OSTYPE|PIPESTATUS|PPID|PWD|RANDOM|SECONDS|SHELL|SHELLOPTS|SHLVL|SRANDOM|TERM|UID|_) \builtin continue;; esac
case ${!__fumehood_n@a} in
*x*) ;;
"") \builtin printf "v%s=%s\0" "$__fumehood_n" "${!__fumehood_n}";;
*) \builtin printf d; \builtin declare -p "$__fumehood_n"; \builtin printf "\0";;
esac
done
\builtin printf f; \builtin declare -f; \builtin printf "\0a"; \builtin alias -p; \builtin printf "\0"
fi
\builtin printf "end\0"
} 1<>/proc/self/fd/63; fi
