-- Anchoring: coins, the attempts that spend them, the blocks that hold them.
-- Transaction ids and block hashes are in internal byte order; explorers show them reversed.
-- The states and the edges between them are those of package anchor/ledger (I6).
-- Bumps (several attempts of a coin), deposits and the tree of coins have their columns already.

-- +goose Up
CREATE TABLE coin (
    txid         bytea       NOT NULL CHECK (octet_length(txid) = 32),
    vout         bigint      NOT NULL CHECK (vout BETWEEN 0 AND 4294967295),
    value        bigint      NOT NULL CHECK (value BETWEEN 1 AND 2100000000000000),
    script       bytea       NOT NULL CHECK (octet_length(script) BETWEEN 1 AND 10000),
    kind         text        NOT NULL CHECK (kind IN ('chain', 'deposit')),
    state        text        NOT NULL CHECK (state IN ('live', 'spent', 'foreign', 'void')),
    made_by      bytea,
    height       bigint      CHECK (height BETWEEN 0 AND 4294967295),
    spent_by     bytea       CHECK (octet_length(spent_by) = 32),
    spent_height bigint      CHECK (spent_height >= height),
    PRIMARY KEY (txid, vout),
    CONSTRAINT coin_void_is_in_no_block CHECK ((state = 'void') = (height IS NULL)),
    CONSTRAINT coin_spent_has_spender CHECK ((state IN ('spent', 'foreign')) = (spent_by IS NOT NULL) AND (spent_by IS NULL) = (spent_height IS NULL)),
    CONSTRAINT coin_made_by_its_transaction CHECK (made_by = txid),
    CONSTRAINT coin_deposit_is_not_ours CHECK (kind = 'chain' OR made_by IS NULL)
);
CREATE UNIQUE INDEX coin_one_live ON coin ((true)) WHERE kind = 'chain' AND state = 'live';
CREATE UNIQUE INDEX coin_one_first ON coin ((true)) WHERE kind = 'chain' AND made_by IS NULL;
CREATE INDEX coin_unspent ON coin (state) WHERE state <> 'spent';
COMMENT ON TABLE coin IS 'Outputs of the anchor key. Coins of the chain form a tree: a coin goes and comes with the attempt that makes it. At most one of the chain is live (I6).';
COMMENT ON COLUMN coin.txid IS 'Transaction that makes the coin.';
COMMENT ON COLUMN coin.vout IS 'Number of the output in it.';
COMMENT ON COLUMN coin.value IS 'Satoshis.';
COMMENT ON COLUMN coin.script IS 'Output script.';
COMMENT ON COLUMN coin.kind IS 'chain: the first outpoint of the log identity, or change of an attempt. deposit: paid in by anybody.';
COMMENT ON COLUMN coin.state IS 'On the best chain as far as it was followed: live, spent by us, foreign (spent, and not by us: an alarm), void (its transaction is in no block).';
COMMENT ON COLUMN coin.made_by IS 'The attempt whose change it is. NULL for the first coin, of which there is one, and for deposits.';
COMMENT ON COLUMN coin.height IS 'Height of the block that makes it. NULL while void.';
COMMENT ON COLUMN coin.spent_by IS 'Transaction in a block that spends it.';
COMMENT ON COLUMN coin.spent_height IS 'Height of that block.';

CREATE TABLE attempt (
    txid        bytea       PRIMARY KEY CHECK (octet_length(txid) = 32),
    coin_txid   bytea       NOT NULL,
    coin_vout   bigint      NOT NULL,
    n           integer     NOT NULL CHECK (n > 0),
    state       text        NOT NULL CHECK (state IN ('created', 'signed', 'sent', 'mined', 'final', 'replaced', 'void')),
    size        bigint      NOT NULL CHECK (size BETWEEN 1 AND 1099511627775),
    root        bytea       NOT NULL CHECK (octet_length(root) = 32),
    unsigned_tx bytea       NOT NULL CHECK (octet_length(unsigned_tx) BETWEEN 60 AND 100000),
    raw_tx      bytea       CHECK (octet_length(raw_tx) BETWEEN 60 AND 400000),
    fee         bigint      CHECK (fee > 0),
    vsize       integer     NOT NULL CHECK (vsize > 0),
    change      bigint      NOT NULL CHECK (change > 0),
    imported    boolean     NOT NULL DEFAULT false,
    epoch       bigint      NOT NULL CHECK (epoch > 0),
    created_at  timestamptz NOT NULL,
    taken_at    timestamptz,
    sent_at     timestamptz,
    sends       integer     NOT NULL DEFAULT 0 CHECK (sends >= 0),
    answer      text        CHECK (octet_length(answer) <= 64),
    answer_text text        CHECK (octet_length(answer_text) <= 4096),
    FOREIGN KEY (coin_txid, coin_vout) REFERENCES coin (txid, vout),
    CONSTRAINT attempt_n_of_coin UNIQUE (coin_txid, coin_vout, n),
    CONSTRAINT attempt_signed_before_sent CHECK (raw_tx IS NOT NULL OR state IN ('created', 'replaced', 'void')),
    CONSTRAINT attempt_sent_was_taken CHECK (taken_at IS NOT NULL OR state NOT IN ('sent', 'mined', 'final')),
    CONSTRAINT attempt_answer_is_whole CHECK ((sends = 0) = (sent_at IS NULL) AND (sent_at IS NULL) = (answer IS NULL)),
    CONSTRAINT attempt_ours_has_a_fee CHECK (imported OR fee IS NOT NULL)
);
-- At most one spender of a coin is in the best chain.
CREATE UNIQUE INDEX attempt_one_mined ON attempt (coin_txid, coin_vout) WHERE state IN ('mined', 'final');
CREATE INDEX attempt_by_size ON attempt (state, size);
CREATE INDEX attempt_by_time ON attempt (created_at);
CREATE TRIGGER attempt_never_forgotten BEFORE DELETE OR TRUNCATE ON attempt
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE coin ADD CONSTRAINT coin_made_by_attempt FOREIGN KEY (made_by) REFERENCES attempt (txid);
COMMENT ON TABLE attempt IS 'Transactions that spend a coin and carry a root. Stored before they are signed, signed before they are sent, never deleted (I5). Of one coin at most one gets mined.';
COMMENT ON COLUMN attempt.txid IS 'Id of the transaction; known before it is signed, because a segwit signature is no part of it.';
COMMENT ON COLUMN attempt.coin_txid IS 'The coin that input 0 spends.';
COMMENT ON COLUMN attempt.coin_vout IS 'The coin that input 0 spends.';
COMMENT ON COLUMN attempt.n IS 'Number among the attempts of the coin, from 1: each bump is a new one.';
COMMENT ON COLUMN attempt.state IS 'created, signed, sent, mined, final; replaced (another spend of the coin is in a block); void (the coin is). Moves along the table of anchor/ledger only (I6).';
COMMENT ON COLUMN attempt.size IS 'Log size in the payload.';
COMMENT ON COLUMN attempt.root IS 'Root in the payload: of exactly that many entries (I3).';
COMMENT ON COLUMN attempt.unsigned_tx IS 'The transaction without witness. What is signed after a crash is these bytes.';
COMMENT ON COLUMN attempt.raw_tx IS 'The signed transaction, stored before it is sent (I5).';
COMMENT ON COLUMN attempt.fee IS 'Satoshis. NULL if unknown: imported, with inputs beyond the coin.';
COMMENT ON COLUMN attempt.vsize IS 'Virtual bytes, with signatures of the longest form.';
COMMENT ON COLUMN attempt.change IS 'Satoshis of output 1, the next coin.';
COMMENT ON COLUMN attempt.imported IS 'Found in a block, and not created by this database: it is an older copy of the one that did.';
COMMENT ON COLUMN attempt.epoch IS 'Epoch of the leader that stored it.';
COMMENT ON COLUMN attempt.created_at IS 'When it was built, or imported.';
COMMENT ON COLUMN attempt.taken_at IS 'When a node first took it, or a block was found to hold it. Tells signed from sent when a reorganisation brings it back.';
COMMENT ON COLUMN attempt.sent_at IS 'When it was last handed to a node.';
COMMENT ON COLUMN attempt.sends IS 'How often it was handed to a node.';
COMMENT ON COLUMN attempt.answer IS 'What the node said the last time, classified as in anchor/ledger.';
COMMENT ON COLUMN attempt.answer_text IS 'The words in which it said so.';

CREATE TABLE attempt_input (
    txid      bytea    NOT NULL REFERENCES attempt (txid),
    position  smallint NOT NULL CHECK (position >= 0),
    prev_txid bytea    NOT NULL CHECK (octet_length(prev_txid) = 32),
    prev_vout bigint   NOT NULL CHECK (prev_vout BETWEEN 0 AND 4294967295),
    value     bigint   NOT NULL CHECK (value BETWEEN 1 AND 2100000000000000),
    script    bytea    NOT NULL CHECK (octet_length(script) BETWEEN 1 AND 10000),
    PRIMARY KEY (txid, position),
    UNIQUE (txid, prev_txid, prev_vout)
);
COMMENT ON TABLE attempt_input IS 'What each attempt spends, with what its signatures cover (BIP 143). Input 0 is the coin; further ones are deposits.';
COMMENT ON COLUMN attempt_input.txid IS 'The attempt.';
COMMENT ON COLUMN attempt_input.position IS 'Number of the input, from 0.';
COMMENT ON COLUMN attempt_input.prev_txid IS 'Transaction of the output that is spent.';
COMMENT ON COLUMN attempt_input.prev_vout IS 'Number of that output.';
COMMENT ON COLUMN attempt_input.value IS 'Its satoshis.';
COMMENT ON COLUMN attempt_input.script IS 'Its script.';

CREATE TABLE sighting (
    txid            bytea       NOT NULL REFERENCES attempt (txid),
    block           bytea       NOT NULL CHECK (octet_length(block) = 32),
    height          bigint      NOT NULL CHECK (height BETWEEN 1 AND 4294967295),
    position        bigint      NOT NULL CHECK (position >= 1),
    header          bytea       NOT NULL CHECK (octet_length(header) = 80),
    branch          bytea       NOT NULL CHECK (octet_length(branch) % 32 = 0 AND octet_length(branch) BETWEEN 32 AND 1024),
    coinbase        bytea       NOT NULL CHECK (octet_length(coinbase) >= 60 AND octet_length(coinbase) <> 64),
    coinbase_branch bytea       NOT NULL,
    seen_at         timestamptz NOT NULL,
    orphaned_at     timestamptz,
    PRIMARY KEY (txid, block),
    CONSTRAINT sighting_branches_equally_deep CHECK (octet_length(coinbase_branch) = octet_length(branch))
);
CREATE UNIQUE INDEX sighting_one_at_a_time ON sighting (txid) WHERE orphaned_at IS NULL;
COMMENT ON TABLE sighting IS 'The evidence that a block holds an attempt: what a receipt takes from Bitcoin. Checked against the header before it is stored.';
COMMENT ON COLUMN sighting.txid IS 'The attempt.';
COMMENT ON COLUMN sighting.block IS 'Hash of the block.';
COMMENT ON COLUMN sighting.height IS 'Height of the block.';
COMMENT ON COLUMN sighting.position IS 'Number of the transaction in the block; 0 is the coinbase.';
COMMENT ON COLUMN sighting.header IS 'The 80 bytes of the block header.';
COMMENT ON COLUMN sighting.branch IS 'Sibling hashes from the transaction to the Merkle root in the header, lowest first.';
COMMENT ON COLUMN sighting.coinbase IS 'First transaction of the block, without witness: its depth proves the depth of the branch.';
COMMENT ON COLUMN sighting.coinbase_branch IS 'The same for it.';
COMMENT ON COLUMN sighting.seen_at IS 'When the block was connected, or connected again.';
COMMENT ON COLUMN sighting.orphaned_at IS 'When a reorganisation took the block out of the best chain. NULL: it is in it (I6).';

CREATE TABLE tip_journal (
    height       bigint      PRIMARY KEY CHECK (height BETWEEN 0 AND 4294967295),
    hash         bytea       NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    header       bytea       NOT NULL CHECK (octet_length(header) = 80),
    connected_at timestamptz NOT NULL
);
COMMENT ON TABLE tip_journal IS 'The blocks that were followed, a chain without gaps from some way below the first coin. Where the node''s chain parts from it is where a reorganisation goes back to (I6).';
COMMENT ON COLUMN tip_journal.height IS 'Height of the block.';
COMMENT ON COLUMN tip_journal.hash IS 'Its hash.';
COMMENT ON COLUMN tip_journal.header IS 'Its header, which names the block before and the work done.';
COMMENT ON COLUMN tip_journal.connected_at IS 'When it was followed.';

-- +goose Down
-- Crash here, or a refusal: goose runs this in one transaction, so that nothing is dropped by half.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM attempt) THEN
        RAISE EXCEPTION 'there are anchor attempts: no attempt is forgotten (I5)'
            USING ERRCODE = 'restrict_violation', HINT = 'To remove a test log, drop its database.';
    END IF;
END
$$;
-- +goose StatementEnd
DROP TABLE tip_journal;
DROP TABLE sighting;
DROP TABLE attempt_input;
ALTER TABLE coin DROP CONSTRAINT coin_made_by_attempt;
DROP TABLE attempt;
DROP TABLE coin;
