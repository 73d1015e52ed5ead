package anchor_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// memStore keeps what the engine stores in memory, and is the model that
// storage/postgres is compared with. It refuses every move of an attempt that
// the state table doesn't have.
type memStore struct {
	mu    sync.Mutex
	epoch uint64
	state memState
}

// edge is a move that was made, for counting.
type edge struct{ from, to string }

type memState struct {
	journal  []ledger.Block
	breaks   []ledger.Break
	coins    map[calpe.Outpoint]ledger.Coin
	attempts map[calpe.BlockHash]memAttempt
	seen     map[calpe.BlockHash]map[calpe.BlockHash]memSighting // by transaction, by block
	walked   map[edge]int                                        // kept over a refusal: only for counting
}

type memAttempt struct {
	ledger.Attempt
	taken bool
}

type memSighting struct {
	calpe.Anchor
	orphaned bool
}

func newMemStore() *memStore {
	return &memStore{epoch: 1, state: memState{
		coins: map[calpe.Outpoint]ledger.Coin{}, attempts: map[calpe.BlockHash]memAttempt{},
		seen: map[calpe.BlockHash]map[calpe.BlockHash]memSighting{}, walked: map[edge]int{},
	}}
}

func (s memState) clone() memState {
	c := memState{journal: slices.Clone(s.journal), breaks: slices.Clone(s.breaks), coins: maps.Clone(s.coins), attempts: maps.Clone(s.attempts), seen: map[calpe.BlockHash]map[calpe.BlockHash]memSighting{}, walked: s.walked}
	for txid, blocks := range s.seen {
		c.seen[txid] = maps.Clone(blocks)
	}
	return c
}

// moves counts the moves made so far.
func (s *memStore) moves() map[edge]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.state.walked)
}

// copyOf is an older copy of the database, to be put back later.
func (s *memStore) copyOf() *memStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &memStore{epoch: s.epoch, state: s.state.clone()}
}

func (s *memStore) takeOver() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	return s.epoch
}

// write is a transaction: all of fn or nothing.
func (s *memStore) write(ctx context.Context, epoch uint64, fn func(st *memState) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch != s.epoch {
		return fmt.Errorf("memory store: %w", calpe.ErrLostLeadership)
	}
	next := s.state.clone()
	if err := fn(&next); err != nil {
		return err
	}
	s.state = next
	return nil
}

func conflict(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ledger.ErrConflict, fmt.Sprintf(format, args...))
}

// move sets the state of an attempt along an edge of the table.
func (st *memState) move(by ledger.Mover, txid calpe.BlockHash, to ledger.AttemptState) error {
	a, ok := st.attempts[txid]
	if !ok || !ledger.CanMove(ledger.AttemptEdges(), by, a.State, to) {
		return conflict("attempt %v from %s to %s by %s", txid, a.State, to, by)
	}
	st.walked[edge{"attempt " + string(a.State), string(to)}]++
	a.State = to
	st.attempts[txid] = a
	return nil
}

// moveCoin is a coin with its state moved along an edge of the table.
func (st *memState) moveCoin(by ledger.Mover, c ledger.Coin, to ledger.CoinState) (ledger.Coin, error) {
	if !ledger.CanMove(ledger.CoinEdges(), by, c.State, to) {
		return c, conflict("coin %v from %s to %s by %s", c.Outpoint, c.State, to, by)
	}
	st.walked[edge{"coin " + string(c.State), string(to)}]++
	c.State = to
	return c, nil
}

// settle moves every attempt that is in no block to the state that follows from
// the coins that it spends.
func (st *memState) settle(by ledger.Mover) error {
	for txid, a := range st.attempts {
		if want := st.wanted(a); !a.State.InBlock() && a.State != want {
			if err := st.move(by, txid, want); err != nil {
				return err
			}
		}
	}
	return nil
}

func (st *memState) wanted(a memAttempt) ledger.AttemptState {
	states := map[ledger.CoinState]bool{}
	for _, in := range a.Inputs {
		if c, ok := st.coins[in.Outpoint]; ok {
			states[c.State] = true
		}
	}
	switch {
	case states[ledger.CoinVoid]:
		return ledger.Void
	case states[ledger.CoinSpent] || states[ledger.CoinForeign]:
		return ledger.Replaced
	case a.Raw == nil:
		return ledger.Created
	case !a.taken:
		return ledger.Signed
	}
	return ledger.Sent
}

func (st *memState) of(coin calpe.Outpoint) []ledger.Attempt {
	var all []ledger.Attempt
	for _, a := range st.attempts {
		if a.Coin == coin {
			all = append(all, st.read(a))
		}
	}
	slices.SortFunc(all, func(a, b ledger.Attempt) int { return a.N - b.N })
	return all
}

// all lists the attempts of a coin.
func (s *memStore) all(coin calpe.Outpoint) []ledger.Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.of(coin)
}

// Attempts lists all attempts; the model keeps no order of coins.
func (s *memStore) Attempts(ctx context.Context, limit int) ([]ledger.Attempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []ledger.Attempt
	for _, a := range s.state.attempts {
		all = append(all, s.state.read(a))
	}
	return all[:min(limit, len(all))], ctx.Err()
}

func (st *memState) read(a memAttempt) ledger.Attempt {
	out := a.Attempt
	out.Height = 0
	for _, s := range st.seen[a.TxID] {
		if !s.orphaned {
			out.Height = s.Height
		}
	}
	return out
}

func (s *memStore) InsertFirstCoin(ctx context.Context, coin ledger.Coin, blocks []ledger.Block) error {
	return s.write(ctx, s.epoch, func(st *memState) error {
		for _, c := range st.coins {
			if c.Kind == ledger.ChainCoin && c.MadeBy == (calpe.BlockHash{}) && !st.restarts(c) {
				if c.Outpoint == coin.Outpoint {
					return nil
				}
				return ledger.ErrRootExists
			}
		}
		st.journal, st.coins[coin.Outpoint] = slices.Clone(blocks), coin
		return nil
	})
}

func (st *memState) restarts(c ledger.Coin) bool {
	return slices.ContainsFunc(st.breaks, func(b ledger.Break) bool { return b.First == c.Outpoint })
}

func (s *memStore) RestartChain(ctx context.Context, b ledger.Break, r calpe.ChainBreak) error {
	return s.write(ctx, s.epoch, func(st *memState) error {
		for _, o := range st.breaks {
			if o.Coin == b.Coin && o.First == b.First && o.Statement == b.Statement {
				return nil
			}
			if o.Coin == b.Coin || o.Statement == b.Statement {
				return conflict("another break of %v", b.Coin)
			}
		}
		coin, first := st.coins[b.Coin], st.coins[b.First]
		block := slices.IndexFunc(st.journal, func(o ledger.Block) bool { return o.Height == b.Height && o.Hash == r.Spend.Block })
		switch {
		case coin.Kind != ledger.ChainCoin || coin.State != ledger.CoinForeign || coin.SpentBy != b.SpentBy || coin.SpentHeight != b.Height || block < 0:
			return conflict("coin %v is not foreign by %v in that block", b.Coin, b.SpentBy)
		case first.Kind != ledger.DepositCoin || first.State != ledger.CoinLive && first.State != ledger.CoinForeign:
			return conflict("%v is no deposit in a block", b.First)
		}
		if first.State == ledger.CoinForeign {
			if first.SpentHeight <= b.Height {
				return conflict("deposit %v was spent before", b.First)
			}
			n := slices.IndexFunc(st.journal, func(o ledger.Block) bool { return o.Height == first.SpentHeight-1 })
			if err := st.undo(n); err != nil {
				return err
			}
			first = st.coins[b.First]
		}
		b.Tip, b.Former = st.journal[len(st.journal)-1].Height, st.former(b, first)
		first.Kind = ledger.ChainCoin
		st.coins[b.First] = first
		st.breaks = append(st.breaks, b)
		st.walked[edge{"chain", "restarted"}]++
		return nil
	})
}

// former are the scripts of the chain up to the break, without that of first.
func (st *memState) former(b ledger.Break, first ledger.Coin) (scripts [][]byte) {
	for _, c := range st.coins {
		if c.Kind == ledger.ChainCoin && c.State != ledger.CoinVoid && c.Height <= b.Height && !bytes.Equal(c.Script, first.Script) {
			scripts = append(scripts, c.Script)
		}
	}
	slices.SortFunc(scripts, bytes.Compare)
	return slices.CompactFunc(scripts, bytes.Equal)
}

func (s *memStore) CreateAttempt(ctx context.Context, epoch uint64, a ledger.Attempt) error {
	return s.write(ctx, epoch, func(st *memState) error {
		if c, ok := st.coins[a.Coin]; !ok || c.State != ledger.CoinLive || c.Kind != ledger.ChainCoin {
			return conflict("coin %v is not live", a.Coin)
		}
		if _, ok := st.attempts[a.TxID]; ok || slices.ContainsFunc(st.of(a.Coin), func(o ledger.Attempt) bool { return o.N == a.N }) {
			return conflict("attempt %v or its number is there", a.TxID)
		}
		st.attempts[a.TxID] = memAttempt{Attempt: a}
		st.walked[edge{"attempt ", string(a.State)}]++
		return nil
	})
}

func (s *memStore) StoreSigned(ctx context.Context, epoch uint64, txid calpe.BlockHash, raw []byte) error {
	return s.write(ctx, epoch, func(st *memState) error {
		if a := st.attempts[txid]; a.State != ledger.Created {
			return conflict("attempt %v is %s", txid, a.State)
		}
		if err := st.move(ledger.ByAct, txid, ledger.Signed); err != nil {
			return err
		}
		a := st.attempts[txid]
		a.Raw = bytes.Clone(raw)
		st.attempts[txid] = a
		return nil
	})
}

func (s *memStore) RecordAnswer(ctx context.Context, epoch uint64, txid calpe.BlockHash, answer ledger.Answer, at time.Time) error {
	return s.write(ctx, epoch, func(st *memState) error {
		a := st.attempts[txid]
		if a.State != ledger.Signed && a.State != ledger.Sent {
			return conflict("attempt %v is %s", txid, a.State)
		}
		a.Answer, a.LastSent = answer, at
		a.taken = a.taken || answer.Kind.Taken()
		st.attempts[txid] = a
		if answer.Kind.Taken() && a.State == ledger.Signed {
			return st.move(ledger.ByAct, txid, ledger.Sent)
		}
		return nil
	})
}

func (s *memStore) MarkFinal(ctx context.Context, epoch uint64, txid calpe.BlockHash) error {
	return s.write(ctx, epoch, func(st *memState) error { return st.move(ledger.ByFollow, txid, ledger.Final) })
}

func (s *memStore) ConnectBlock(ctx context.Context, epoch uint64, b ledger.Block, events []ledger.Event) error {
	return s.write(ctx, epoch, func(st *memState) error {
		if tip := st.journal[len(st.journal)-1]; b.Height != tip.Height+1 || b.Prev() != tip.Hash {
			return conflict("block %d doesn't follow the tip", b.Height)
		}
		st.journal = append(st.journal, b)
		for _, ev := range events {
			if err := st.apply(b, ev); err != nil {
				return err
			}
		}
		return nil
	})
}

func (st *memState) apply(b ledger.Block, ev ledger.Event) error {
	switch {
	case ev.Mined != nil:
		return st.mined(b, *ev.Mined)
	case ev.Foreign != nil:
		if err := st.spend(ev.Foreign.Coin, ledger.CoinForeign, ev.Foreign.TxID, b.Height); err != nil {
			return err
		}
		return st.settle(ledger.ByFollow)
	case ev.Found != nil:
		return st.revive(ev.Found.Coin, b.Height)
	case ev.Deposit != nil:
		return st.make(*ev.Deposit, b.Height)
	}
	return errors.New("empty event")
}

func (st *memState) spend(o calpe.Outpoint, state ledger.CoinState, by calpe.BlockHash, height uint32) error {
	c, err := st.moveCoin(ledger.ByFollow, st.coins[o], state)
	if err != nil {
		return err
	}
	c.SpentBy, c.SpentHeight = by, height
	st.coins[o] = c
	return nil
}

func (st *memState) make(c ledger.Coin, height uint32) error {
	if _, ok := st.coins[c.Outpoint]; ok {
		if err := st.revive(c.Outpoint, height); err != nil || c.Kind != ledger.ChainCoin {
			return err
		}
		again := st.coins[c.Outpoint]
		again.Kind, again.MadeBy = c.Kind, c.MadeBy
		st.coins[c.Outpoint] = again
		return nil
	}
	st.coins[c.Outpoint] = c
	st.walked[edge{"coin ", string(c.State)}]++
	return nil
}

func (st *memState) revive(o calpe.Outpoint, height uint32) error {
	c, err := st.moveCoin(ledger.ByFollow, st.coins[o], ledger.CoinLive)
	if err != nil || c.Outpoint != o {
		return cmp.Or(err, conflict("coin %v isn't there", o))
	}
	c.Height = height
	st.coins[o] = c
	return st.settle(ledger.ByFollow)
}

func (st *memState) mined(b ledger.Block, m ledger.MinedAttempt) error {
	txid := m.Evidence.TxID
	for _, o := range append([]calpe.Outpoint{m.Coin}, m.Deposits...) {
		if err := st.spend(o, ledger.CoinSpent, txid, b.Height); err != nil {
			return err
		}
	}
	if m.Import != nil {
		if _, ok := st.attempts[txid]; ok {
			return conflict("attempt %v is there", txid)
		}
		a := *m.Import
		for _, o := range st.of(m.Coin) {
			a.N = o.N
		}
		a.N++
		st.attempts[txid] = memAttempt{Attempt: a, taken: true}
		st.walked[edge{"attempt ", string(a.State)}]++
	} else {
		if st.attempts[txid].Coin != m.Coin {
			return conflict("attempt %v is of another coin", txid)
		}
		if err := st.move(ledger.ByFollow, txid, ledger.Mined); err != nil {
			return err
		}
		a := st.attempts[txid]
		a.taken = true
		if a.Raw == nil {
			a.Raw = m.Raw
		}
		st.attempts[txid] = a
	}
	if st.seen[txid] == nil {
		st.seen[txid] = map[calpe.BlockHash]memSighting{}
	}
	st.seen[txid][b.Hash] = memSighting{Anchor: m.Evidence}
	if err := st.settle(ledger.ByFollow); err != nil {
		return err
	}
	return st.make(m.Next, b.Height)
}

func (s *memStore) Rewind(ctx context.Context, epoch uint64, tip, fork ledger.Block) error {
	return s.write(ctx, epoch, func(st *memState) error {
		n := slices.Index(st.journal, fork)
		if n < 0 || tip == fork || st.journal[len(st.journal)-1] != tip {
			return conflict("journal doesn't go from %d to %d", fork.Height, tip.Height)
		}
		if slices.ContainsFunc(st.breaks, func(b ledger.Break) bool { return b.Height > fork.Height }) {
			return conflict("a break is above %d", fork.Height)
		}
		return st.undo(n)
	})
}

// undo takes the journal back to its block number n.
func (st *memState) undo(n int) error {
	height := st.journal[n].Height
	st.journal = st.journal[:n+1]
	for txid, blocks := range st.seen {
		for hash, sight := range blocks {
			if sight.Height > height && !sight.orphaned {
				sight.orphaned = true
				blocks[hash] = sight
				if err := st.move(ledger.ByRewind, txid, ledger.Sent); err != nil {
					return err
				}
			}
		}
	}
	return st.rewindCoins(height)
}

func (st *memState) rewindCoins(height uint32) error {
	for o, c := range st.coins {
		var err error
		switch {
		case c.State == ledger.CoinVoid:
			continue
		case c.Height > height:
			c, err = st.moveCoin(ledger.ByRewind, c, ledger.CoinVoid)
			c.Height = 0
		case c.SpentHeight > height:
			c, err = st.moveCoin(ledger.ByRewind, c, ledger.CoinLive)
		default:
			continue
		}
		if err != nil {
			return err
		}
		c.SpentBy, c.SpentHeight = calpe.BlockHash{}, 0
		st.coins[o] = c
	}
	return st.settle(ledger.ByRewind)
}

func (s *memStore) Spent(ctx context.Context, from, to time.Time) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum int64
	for o, c := range s.state.coins {
		if c.State == ledger.CoinLive {
			continue
		}
		var final, highest int64
		recent := false
		for _, a := range s.state.of(o) {
			if a.Raw == nil {
				continue
			}
			highest = max(highest, a.Fee)
			if a.State == ledger.Final {
				final = a.Fee
			}
			for _, at := range []time.Time{a.Created, a.LastSent} {
				recent = recent || !at.Before(from) && !at.After(to)
			}
		}
		if recent {
			sum += cmp.Or(final, highest)
		}
	}
	return sum, ctx.Err()
}

func (s *memStore) Journal(ctx context.Context, from uint32, limit int) ([]ledger.Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	blocks := []ledger.Block{}
	for _, b := range slices.Backward(s.state.journal) {
		if b.Height <= from && len(blocks) < limit {
			blocks = append(blocks, b)
		}
	}
	return blocks, ctx.Err()
}

func (s *memStore) Attempt(ctx context.Context, txid calpe.BlockHash) (ledger.Attempt, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.state.attempts[txid]
	return s.state.read(a), ok, ctx.Err()
}

func (s *memStore) Snapshot(ctx context.Context) (ledger.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state
	if len(st.journal) == 0 {
		return ledger.Snapshot{}, ctx.Err()
	}
	snap := ledger.Snapshot{Tip: st.journal[len(st.journal)-1], Breaks: slices.Clone(st.breaks)}
	for _, c := range st.coins {
		switch {
		case c.State == ledger.CoinForeign:
			settled := slices.ContainsFunc(st.breaks, func(b ledger.Break) bool { return b.Settles(c) })
			if !settled && (snap.Foreign == nil || c.Kind == ledger.ChainCoin) {
				snap.Foreign = &c
			}
		case c.State == ledger.CoinSpent:
		case c.Kind == ledger.DepositCoin:
			snap.Deposits = append(snap.Deposits, c)
		case c.State == ledger.CoinLive:
			snap.Live, snap.Attempts = &c, st.of(c.Outpoint)
		case c.State == ledger.CoinVoid && c.MadeBy == (calpe.BlockHash{}):
			snap.Void = &c
		}
	}
	for _, m := range st.attempts {
		a := st.read(m)
		if a.State == ledger.Mined {
			snap.Mined = append(snap.Mined, a)
		}
		if a.State.InBlock() {
			snap.Anchored = max(snap.Anchored, a.Size)
		}
		if snap.Live != nil && a.TxID == snap.Live.MadeBy {
			if snap.LastRate = a.FeeRate(); !a.Imported {
				snap.LastCreated = a.Created
			}
		}
	}
	if n := len(snap.Attempts); n > 0 {
		snap.LastRate = snap.Attempts[n-1].FeeRate()
	}
	slices.SortFunc(snap.Deposits, func(a, b ledger.Coin) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), bytes.Compare(a.Outpoint.TxID[:], b.Outpoint.TxID[:]), cmp.Compare(a.Outpoint.Vout, b.Outpoint.Vout))
	})
	slices.SortFunc(snap.Mined, func(a, b ledger.Attempt) int { return int(a.Size) - int(b.Size) })
	return snap, ctx.Err()
}
