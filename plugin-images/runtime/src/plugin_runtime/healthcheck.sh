# The engine's probe: 0 while the plugin is starting or ready, else 1 and a line that says why.
#
# A fresh note of the supervisor's (health_note.py) is taken for its word. Where there is none, or it is old or says anything
# else, healthcheck.py asks the supervisor itself. Shell builtins only: an interpreter every half minute in each container is most
# of what a plugin at rest costs.
age_limit=10 # seconds; a note is written every three

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
