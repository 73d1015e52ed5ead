package fsck

import (
	"crypto/sha256"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/receipt"
)

// judgeAttempt looks at the transaction of an attempt (I5), and at its state (I6).
func (r *run) judgeAttempt(a *ledger.AttemptRecord, coin ledger.Coin) (found []Finding) {
	f := Finding{Invariant: "I5", Thing: "attempt " + a.TxID.String(), Do: doAnchor}
	if invariant, problem := judgeTransaction(a); problem != "" {
		f.Invariant, f.Problem = invariant, problem
		return append(found, f) // evidence and state are of that transaction
	}
	f.Invariant = "I6"
	for i := range a.Sightings {
		if f.Problem = r.judgeSighting(&a.Sightings[i], a); f.Problem != "" {
			return append(found, f)
		}
	}
	if f.Problem = judgeState(a, coin); f.Problem != "" {
		found = append(found, f)
	}
	return found
}

// judgeTransaction compares the row with its transaction, which its id binds.
func judgeTransaction(a *ledger.AttemptRecord) (invariant, problem string) {
	const stored = "I5"
	tx, err := wallet.ParseUnsigned(a.Unsigned)
	if err != nil {
		return stored, "its transaction can't be read: " + err.Error()
	}
	if calpe.BlockHash(tx.TxHash()) != a.TxID {
		return stored, fmt.Sprintf("its transaction has the id %v", tx.TxHash())
	}
	if len(tx.TxOut) != 2 || tx.TxOut[1].Value != a.Change {
		return stored, fmt.Sprintf("its row says %d sat of change, its transaction says otherwise", a.Change)
	}
	payload, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
	if err != nil {
		return stored, "its transaction is no anchor: " + err.Error()
	}
	if payload != a.Payload {
		return "I3", fmt.Sprintf("its row says the root %v of %d entries, its transaction carries %v of %d", a.Root, a.Size, payload.Root, payload.Size)
	}
	// A transaction that was found in a block may spend what nobody here knows of.
	whole := len(a.Inputs) == len(tx.TxIn)
	if len(a.Inputs) == 0 || a.Inputs[0].Outpoint != a.Coin || !whole && !a.Imported {
		return stored, fmt.Sprintf("it has %d inputs, of which rows describe %d, and the first one must be the coin %v", len(tx.TxIn), len(a.Inputs), a.Coin)
	}
	var total int64
	for i, in := range a.Inputs {
		total += in.Value
		if spends := (calpe.Outpoint{TxID: calpe.BlockHash(tx.TxIn[i].PreviousOutPoint.Hash), Vout: tx.TxIn[i].PreviousOutPoint.Index}); whole && spends != in.Outpoint {
			return stored, fmt.Sprintf("its input %d spends %v, the row says %v", i, spends, in.Outpoint)
		}
	}
	if a.Raw != nil && whole {
		if err := wallet.VerifySigned(a.Raw, a.Unsigned, a.Inputs); err != nil {
			return stored, "its signed transaction: " + err.Error()
		}
	}
	if whole && a.Fee != 0 && total-a.Change != a.Fee {
		return stored, fmt.Sprintf("its row says a fee of %d sat, it pays %d", a.Fee, total-a.Change)
	}
	if a.Raw == nil && (a.State == ledger.Signed || a.State == ledger.Sent || a.State.InBlock()) {
		return stored, fmt.Sprintf("it is %s, and no signed transaction is stored", a.State)
	}
	return "", ""
}

// judgeSighting checks the evidence that a block holds the attempt, and that the
// block was followed, or isn't any more.
func (r *run) judgeSighting(s *ledger.Sighting, a *ledger.AttemptRecord) string {
	once := sha256.Sum256(s.Header[:])
	if calpe.BlockHash(sha256.Sum256(once[:])) != s.Block {
		return fmt.Sprintf("the header of its sighting in block %v is another block's", s.Block)
	}
	if link, err := receipt.NewAnchor(r.Identity, s.Anchor).Link(); err != nil {
		return fmt.Sprintf("its sighting in block %d: %v", s.Height, err)
	} else if link.TxID != a.TxID {
		return fmt.Sprintf("its sighting in block %d is of the transaction %v", s.Height, link.TxID)
	}
	if !s.Orphaned && s.Journal != s.Block && s.Journal != (calpe.BlockHash{}) {
		return fmt.Sprintf("its sighting is in block %v, and at the height %d the block %v was followed", s.Block, s.Height, s.Journal)
	}
	return ""
}

// judgeState compares the state with the one that follows from sightings and coins.
func judgeState(a *ledger.AttemptRecord, coin ledger.Coin) string {
	if a.Current() != nil {
		if !a.State.InBlock() {
			return fmt.Sprintf("is %s, and block %d holds it", a.State, a.Current().Height)
		}
		if a.Next == nil {
			return "is in a block, and the coin that it makes has no row"
		}
		return ""
	}
	want := ledger.Sent
	switch {
	case a.Raw == nil:
		want = ledger.Created
	case !a.Taken:
		want = ledger.Signed
	}
	states := []ledger.CoinState{coin.State}
	for _, c := range a.Coins {
		if c.Outpoint != coin.Outpoint {
			states = append(states, c.State)
		}
	}
	for _, s := range states {
		switch {
		case s == ledger.CoinVoid:
			want = ledger.Void
		case s != ledger.CoinLive && want != ledger.Void:
			want = ledger.Replaced
		}
	}
	if a.State != want {
		return fmt.Sprintf("is %s in its row, and %s by what is known of its coins and of blocks", a.State, want)
	}
	return ""
}
