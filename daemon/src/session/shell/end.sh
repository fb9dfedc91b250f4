__fumehood_status=$?
if [ -z "${__fumehood_done-}" ] && [ -k /proc/self/fd/63 ]; then {
__fumehood_done=1
\command set +aefuvx
\command printf "%s\0" fumehood-1 "$PWD" "${OLDPWD-}" && \command -p env -0 && \command printf "\0end\0"
} 1<>/proc/self/fd/63; fi
