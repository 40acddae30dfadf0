-- When an operator dealt with an event, and as whom the operating system knew him. handled_by stays
-- empty until operators have accounts of their own.
ALTER TABLE security_events ADD COLUMN handled_at TIMESTAMP;
ALTER TABLE security_events ADD COLUMN handled_by_user TEXT;
