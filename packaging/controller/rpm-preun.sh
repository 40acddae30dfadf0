# RPM: $1 is 0 when the last version goes.
if [ "$1" -eq 0 ]; then
    systemctl --no-reload disable vpn-node-controller.service || :
    [ ! -d /run/systemd/system ] || systemctl stop vpn-node-controller.service || :
fi
