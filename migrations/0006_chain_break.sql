-- After somebody else has spent the live coin, the operator restarts the chain of coins from a deposit.
-- The break statement that says so is an entry of the log.

-- +goose Up
-- A server of the version before may be running: it goes on, and doesn't see restarts. With a coin that was
-- spent by others it stands still anyway.
ALTER TABLE coin ADD COLUMN restarts boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT coin_restarts_the_chain CHECK (NOT restarts OR (kind = 'chain' AND made_by IS NULL));
DROP INDEX coin_one_first;
CREATE UNIQUE INDEX coin_one_first ON coin ((true)) WHERE kind = 'chain' AND made_by IS NULL AND NOT restarts;
COMMENT ON COLUMN coin.restarts IS 'A former deposit with which the chain goes on behind a break.';

CREATE TABLE chain_break (
    coin_txid       bytea       NOT NULL,
    coin_vout       bigint      NOT NULL,
    first_txid      bytea       NOT NULL,
    first_vout      bigint      NOT NULL,
    statement_index bigint      NOT NULL UNIQUE CHECK (statement_index BETWEEN 1 AND 1099511627775),
    statement       bytea       NOT NULL CHECK (octet_length(statement) BETWEEN 2 AND 16384),
    salt            bytea       NOT NULL CHECK (octet_length(salt) = 16),
    tip             bigint      NOT NULL CHECK (tip >= height AND tip <= 4294967295),
    spent_by        bytea       NOT NULL CHECK (octet_length(spent_by) = 32),
    tx              bytea       NOT NULL CHECK (octet_length(tx) BETWEEN 60 AND 100000 AND octet_length(tx) <> 64),
    block           bytea       NOT NULL CHECK (octet_length(block) = 32),
    height          bigint      NOT NULL CHECK (height BETWEEN 1 AND 4294967295),
    position        bigint      NOT NULL CHECK (position >= 1),
    header          bytea       NOT NULL CHECK (octet_length(header) = 80),
    branch          bytea       NOT NULL CHECK (octet_length(branch) % 32 = 0 AND octet_length(branch) BETWEEN 32 AND 1024),
    coinbase        bytea       NOT NULL CHECK (octet_length(coinbase) >= 60 AND octet_length(coinbase) <> 64),
    coinbase_branch bytea       NOT NULL,
    recorded_at     timestamptz NOT NULL,
    PRIMARY KEY (coin_txid, coin_vout),
    UNIQUE (first_txid, first_vout),
    FOREIGN KEY (coin_txid, coin_vout) REFERENCES coin (txid, vout),
    FOREIGN KEY (first_txid, first_vout) REFERENCES coin (txid, vout),
    CONSTRAINT chain_break_goes_on_elsewhere CHECK ((coin_txid, coin_vout) <> (first_txid, first_vout)),
    CONSTRAINT chain_break_branches_equally_deep CHECK (octet_length(coinbase_branch) = octet_length(branch))
);
CREATE TRIGGER chain_break_never_forgotten BEFORE UPDATE OR DELETE OR TRUNCATE ON chain_break
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
COMMENT ON TABLE chain_break IS 'Breaks of the chain of coins: of each foreign coin at most one, and none is ever taken back. The blocks below one are settled: a reorganisation of them stops the engine (I6).';
COMMENT ON COLUMN chain_break.coin_txid IS 'The coin of the chain that was spent by others.';
COMMENT ON COLUMN chain_break.coin_vout IS 'The coin of the chain that was spent by others.';
COMMENT ON COLUMN chain_break.first_txid IS 'The coin with which the chain goes on.';
COMMENT ON COLUMN chain_break.first_vout IS 'The coin with which the chain goes on.';
COMMENT ON COLUMN chain_break.statement_index IS 'Entry of the break statement. The next anchor covers it.';
COMMENT ON COLUMN chain_break.statement IS 'It, as in the table of statements, whose row a restored database may lack: the text is published.';
COMMENT ON COLUMN chain_break.salt IS 'Salt of its commitment.';
COMMENT ON COLUMN chain_break.tip IS 'Height of the newest block that was followed when the chain was restarted.';
COMMENT ON COLUMN chain_break.spent_by IS 'Transaction that spent the coin.';
COMMENT ON COLUMN chain_break.tx IS 'It, without witness: auditors get it with what proves that the block holds it.';
COMMENT ON COLUMN chain_break.block IS 'Hash of the block.';
COMMENT ON COLUMN chain_break.height IS 'Height of the block.';
COMMENT ON COLUMN chain_break.position IS 'Number of the transaction in the block; 0 is the coinbase.';
COMMENT ON COLUMN chain_break.header IS 'The 80 bytes of the block header.';
COMMENT ON COLUMN chain_break.branch IS 'Sibling hashes from the transaction to the Merkle root in the header, lowest first.';
COMMENT ON COLUMN chain_break.coinbase IS 'First transaction of the block, without witness: its depth proves the depth of the branch.';
COMMENT ON COLUMN chain_break.coinbase_branch IS 'The same for it.';
COMMENT ON COLUMN chain_break.recorded_at IS 'When the chain was restarted.';

-- +goose Down
-- Crash here, or a refusal: goose runs this in one transaction, so that nothing is dropped by half.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM chain_break) THEN
        RAISE EXCEPTION 'the chain of coins was restarted: without its breaks it can''t be followed (I6)'
            USING ERRCODE = 'restrict_violation', HINT = 'To remove a test log, drop its database.';
    END IF;
END
$$;
-- +goose StatementEnd
DROP TABLE chain_break;
DROP INDEX coin_one_first;
CREATE UNIQUE INDEX coin_one_first ON coin ((true)) WHERE kind = 'chain' AND made_by IS NULL;
ALTER TABLE coin DROP COLUMN restarts;
