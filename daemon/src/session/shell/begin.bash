__fumehood_line=$1 __fumehood_left=$3 __fumehood_cwd=$4 __fumehood_old=$5 __fumehood_mode=$6 __fumehood_b=$BASHOPTS __fumehood_o=$SHELLOPTS
shift $#
if [[ -n $__fumehood_cwd ]] && ! \builtin cd -- "$__fumehood_cwd" 2>/dev/null; then
__fumehood_n=/tmp/.fumehood-$$
\command -p mkdir -m 700 -- "$__fumehood_n" 2>/dev/null && \builtin cd -- "$__fumehood_n" && \command -p rmdir -- "$__fumehood_n" || { \builtin echo "fumehood: the working directory $__fumehood_cwd cannot be entered; name another" >&2; \builtin exit 126; }
\builtin echo "fumehood: the working directory $__fumehood_cwd cannot be entered; this line begins in one that is empty and removed" >&2
PWD=$__fumehood_cwd
fi
[[ -z $__fumehood_old ]] || OLDPWD=$__fumehood_old
if [[ $__fumehood_mode == *r* ]]; then
IFS= \builtin read -r -d '' -u 63 __fumehood_n
\builtin eval "$__fumehood_n" 2>/dev/null
fi
if [[ $__fumehood_mode == *s* ]]; then
\builtin trap '{ \builtin eval "$__fumehood_left"; } 2>/dev/null' EXIT
else \builtin exec 63>&-; fi
