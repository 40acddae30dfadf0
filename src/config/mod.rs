//! Raw file, merged, validated: what the operator wrote becomes what the daemon runs on.
