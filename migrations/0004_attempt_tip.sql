-- Fee bumps count blocks: those since the first attempt of a coin, and whether one has come since the newest.

-- +goose Up
ALTER TABLE attempt ADD COLUMN tip bigint CHECK (tip BETWEEN 0 AND 4294967295);
-- When older attempts were created isn't known in blocks: the count begins now.
UPDATE attempt SET tip = (SELECT coalesce(max(height), 0) FROM tip_journal);
ALTER TABLE attempt ALTER COLUMN tip SET NOT NULL;
COMMENT ON COLUMN attempt.tip IS 'Height of the newest block that was followed when it was created. One attempt a block at most, and none for the fee before the goal is missed.';

-- +goose Down
ALTER TABLE attempt DROP COLUMN tip;
