# What a boot, and then an operator, would do with this disk, in a chroot on it. Says how each step
# went as KEY<tab>VALUE. Given: DEB, the package to install again if dpkg asks for it.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive
cd /
opt=/opt/vpn-node
say() { printf '%s\t%s\n' "$1" "$(printf '%s' "$2" | tr '\n\t' '  ')"; }

# vpn-node-updater-recover.service, and the rescue behind its OnFailure=.
if "$opt/stable/bin/vpn-node-updater" recover >/tmp/recover 2>&1 </dev/null; then
    say recovered stable
elif "$opt/system/bin/vpn-node-updater" recover >>/tmp/recover 2>&1 </dev/null; then
    say recovered rescue
else
    say recovered "no: $(tail -n 5 /tmp/recover)"
fi

# vpn-node-agent.service: what answers says of itself how it is.
agent() {
    rm -rf /run/vpn-node
    install -d -m 755 -o vpn-node -g vpn-node /run/vpn-node
    setpriv --reuid=vpn-node --regid=vpn-node --clear-groups --no-new-privs \
        "$opt/stable/bin/vpn-node-agent" >/tmp/agent 2>&1 </dev/null &
    pid=$!
    tries=0
    while :; do
        said=$("$opt/stable/bin/vpn-node" status --json 2>/dev/null </dev/null) && code=0 || code=$?
        # 0 is an enrolled host, 4 one that is not; before the agent answers it is 3.
        case $code in 0) break ;; esac
        if [ $code = 4 ] && [ -S /run/vpn-node/status.sock ]; then break; fi
        tries=$((tries + 1))
        if [ $tries -gt 100 ] || ! kill -0 $pid 2>/dev/null; then
            said="$(tail -n 5 /tmp/agent)"
            code="dead $code"
            break
        fi
        sleep 0.1
    done
    kill -TERM $pid 2>/dev/null || true
    wait $pid && ended=0 || ended=$?
    say "$1" "$code"
    say "$1.said" "$said"
    say "$1.ended" "$ended"
}
agent agent

# An operator, or the next run of apt.
audit=$(dpkg --audit 2>&1)
say audit "$audit"
dpkg --configure -a >/tmp/configure 2>&1 </dev/null && say configured yes || say configured "no: $(tail -n 5 /tmp/configure)"
audit=$(dpkg --audit 2>&1)
if [ -n "$audit" ]; then
    say audit.configured "$audit"
    dpkg -i "$DEB" >/tmp/install 2>&1 </dev/null && say again yes || say again "no: $(tail -n 5 /tmp/install)"
fi
say audit.last "$(dpkg --audit 2>&1)"
say package "$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' vpn-node-agent 2>&1)"
agent repaired
