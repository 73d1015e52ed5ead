package ledger

import "github.com/calpe/calpe"

// CoinRecord is all that the rows say of one coin, read at one point in time:
// for whoever checks that they hold together.
type CoinRecord struct {
	Coin
	Maker    *AttemptRecord  // of MadeBy; nil if there is no such row
	Spender  *AttemptRecord  // of SpentBy; nil if there is no such row
	Attempts []AttemptRecord // whose coin it is, by their number
}

// AttemptRecord is all that the rows say of one attempt.
type AttemptRecord struct {
	Attempt
	Taken     bool       // a node took it, or a block was found to hold it
	Coins     []Coin     // those of its inputs that are coins, in the order of the inputs
	Next      *Coin      // output 1, if there is a row
	Sightings []Sighting // in blocks of the best chain and of others
}

// Sighting is the evidence that a block holds an attempt.
type Sighting struct {
	calpe.Anchor
	Orphaned bool            // a reorganisation took the block away
	Journal  calpe.BlockHash // block that was followed at that height; zero if none was
}

// Current is the sighting in the best chain; nil if there is none.
func (a AttemptRecord) Current() *Sighting {
	for i := range a.Sightings {
		if !a.Sightings[i].Orphaned {
			return &a.Sightings[i]
		}
	}
	return nil
}
