#!/bin/sh
# Brings Mosquitto and its clients by apt where that is allowed; where not, the tests run on the embedded broker and say so.
PATH="$PATH:/usr/sbin:/sbin"
command -v mosquitto >/dev/null && command -v mosquitto_pub >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "Mosquitto is not here and there is no apt: its tests are left out."; exit 0; }
if [ "$(id -u)" = 0 ]; then
    sudo=
elif sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    echo "Mosquitto is not here and may not be installed: its tests are left out. (sudo apt-get install mosquitto mosquitto-clients)"
    exit 0
fi
echo "Installing Mosquitto and its clients by apt (1 MB) for the tests."
export DEBIAN_FRONTEND=noninteractive
# The tests start brokers of their own; the package's service stays off.
printf '#!/bin/sh\nexit 101\n' > /tmp/no-services.$$ && chmod +x /tmp/no-services.$$
[ -e /usr/sbin/policy-rc.d ] || { $sudo cp /tmp/no-services.$$ /usr/sbin/policy-rc.d; ours=1; }
{ $sudo apt-get update -qq && $sudo apt-get install -y -qq mosquitto mosquitto-clients; } >/dev/null 2>&1 ||
    echo "apt could not install Mosquitto: its tests are left out."
[ -z "$ours" ] || $sudo rm -f /usr/sbin/policy-rc.d
rm -f /tmp/no-services.$$
exit 0
