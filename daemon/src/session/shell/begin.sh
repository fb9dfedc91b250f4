__fumehood_line=$1 __fumehood_left=$3 __fumehood_cwd=$4 __fumehood_old=$5 __fumehood_mode=$6
shift $#
if [ -n "$__fumehood_cwd" ] && ! \command cd -- "$__fumehood_cwd" 2>/dev/null; then
__fumehood_n=/tmp/.fumehood-$$
\command -p mkdir -m 700 -- "$__fumehood_n" 2>/dev/null && \command cd -- "$__fumehood_n" && \command -p rmdir -- "$__fumehood_n" || { \command echo "fumehood: the working directory $__fumehood_cwd cannot be entered; name another" >&2; \command exit 126; }
\command echo "fumehood: the working directory $__fumehood_cwd cannot be entered; this line begins in one that is empty and removed" >&2
PWD=$__fumehood_cwd
fi
[ -z "$__fumehood_old" ] || OLDPWD=$__fumehood_old
case $__fumehood_mode in *s*) \command trap '{ \command eval "$__fumehood_left"; } 2>/dev/null' EXIT;; esac
