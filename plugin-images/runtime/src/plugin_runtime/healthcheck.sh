# The engine's probe: 0 while the plugin is starting or ready, else 1 and a line that says why.
#
# A fresh note of the supervisor (HealthNote in supervising/supervisor.py) is believed. Where there is none, or it is old or says
# anything else, healthcheck.py requests the supervisor's status. Shell builtins only: an interpreter
# costs more than the exec itself.
age_limit=10 # seconds; the supervisor writes a note every three

if { read -r written phase <"$PLUGIN_HEALTH_FILE" && read -r now _ </proc/uptime; } 2>/dev/null; then
    case $phase:$written in
    *:*[!0-9]* | *:???????????*) ;; # no time
    starting:?* | ready:?*)
        age=$((${now%.*} - written))
        if [ "$age" -ge 0 ] && [ "$age" -lt "$age_limit" ]; then exit 0; fi
        ;;
    esac
fi
exec python -I -S "${0%/*}/healthcheck.py"
