-- Where a request that was refused as ahead stood: the furthest ones are remembered, because the
-- host itself is further than anything that was recorded of it.
ALTER TABLE ahead_digests ADD COLUMN key_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ahead_digests ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
