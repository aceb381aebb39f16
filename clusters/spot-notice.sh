#!/bin/sh
# Waits until AWS says, two minutes before, that it takes this spot instance back, and tells Ray: nothing new starts here
# then, and each trial that trains here saves a checkpoint at once. cluster.yaml starts it on every worker:
#
#   spot-notice.sh HEAD_ADDRESS        METADATA names another server for a test

set -u
metadata=${METADATA:-http://169.254.169.254}/latest
until token=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/api/token") &&
    curl -sf -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
do
    sleep 5
done
exec ray drain-node --address="$1" --reason=DRAIN_NODE_REASON_PREEMPTION --reason-message="spot notice" \
    --deadline-remaining-seconds=110
