#!/bin/sh
# Make the secrets of the containers that are missing; never change one that exists.
#
# Compose mounts a secret with the owner and the mode it has here, and the processes in the
# containers are other users without any capability. So the files can be read by all, and the
# folder, which nobody else can enter, is what keeps other users of this machine out.
set -eu
umask 077
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
chmod 0700 "$folder"
for name in postgres_password api_token venue_api_key venue_api_secret grafana_password \
    store_access_key store_secret_key; do
    file=$folder/$name
    [ -s "$file" ] && continue
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$file.new"
    chmod 0444 "$file.new"
    mv "$file.new" "$file"
    echo "made $file"
done
