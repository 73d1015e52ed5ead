package batch_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// chainBreak is a break as the rows have it.
func (w *publisherWorld) chainBreak(n byte) calpe.ChainBreak {
	w.t.Helper()
	w.chain.Mine(batchtest.AnchorTx(calpe.Payload{Size: 1}, 1000, calpe.Outpoint{Vout: uint32(n)}))
	signed, err := statement.Sign(w.log.Statement, statement.Break{Log: w.log.Identity.Hash(), Coin: calpe.Outpoint{Vout: uint32(n)},
		First: calpe.Outpoint{Vout: 99}, Reason: "r", Time: time.Unix(1_700_000_000, 0).UTC()})
	if err != nil {
		w.t.Fatal(err)
	}
	return calpe.ChainBreak{After: uint64(n), Spend: w.chain.Anchor(w.chain.Tip(), 1, calpe.Payload{}),
		Statement: calpe.Statement{Index: uint64(n), Type: statement.TypeBreak, Body: signed.Bytes(), Salt: calpe.Salt{n}}}
}

func (w *publisherWorld) breaks() []receipt.Break {
	w.t.Helper()
	list, err := batch.PublishedBreaks(w.t.Context(), w.objects)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// Breaks are published by a command before they are rows, and by the publisher; and
// none is ever taken back.
func TestBreaksArePublished(t *testing.T) {
	w := newPublisher(t)
	step := func() {
		t.Helper()
		if err := w.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if len(w.breaks()) != 0 {
		t.Fatal("breaks out of nowhere")
	}
	first, second := w.chainBreak(1), w.chainBreak(2)
	published, err := batch.NewBreak(w.log.Identity, first)
	if err != nil || published.After != 1 || published.Index != 1 || published.Body().Coin.Vout != 1 {
		t.Fatalf("%+v, %v", published, err)
	}
	for range 2 { // the second time nothing changes
		if err := batch.PublishBreak(t.Context(), w.objects, published); err != nil || len(w.breaks()) != 1 {
			t.Fatalf("%d breaks, %v", len(w.breaks()), err)
		}
		step() // the rows don't know of it
	}
	w.rows.breaks = []calpe.ChainBreak{first}
	step()
	w.rows.breaks = []calpe.ChainBreak{first, second}
	step()
	if list := w.breaks(); len(list) != 2 || list[1].Index != 2 {
		t.Fatalf("%d breaks", len(list))
	}
	w.rows.breaks = []calpe.ChainBreak{first} // an older copy of the database
	w.restart()
	w.now = w.now.Add(time.Hour)
	step()
	if len(w.breaks()) != 2 {
		t.Fatal("a break was taken back")
	}
	// What can't be read is replaced by what the rows have.
	w.rows.breaks = []calpe.ChainBreak{first, second}
	if err := w.objects.ReplaceLogObject(t.Context(), receipt.BreaksPath, []byte("?"), "", ""); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Hour)
	step()
	if len(w.breaks()) != 2 {
		t.Fatal("damage wasn't mended")
	}
	data, err := batch.BreaksFile(t.Context(), w.rows, w.log.Identity)
	there, errThere := w.objects.ReadLogObject(t.Context(), receipt.BreaksPath, receipt.MaxBreaksSize)
	if err != nil || errThere != nil || !bytes.Equal(data, there) {
		t.Errorf("the object isn't what the rows say: %v, %v", err, errThere)
	}
}

func TestBreaksThatCantBeRead(t *testing.T) {
	w := newPublisher(t)
	b := w.chainBreak(1)
	b.Statement.Body = []byte("{}")
	if _, err := batch.NewBreak(w.log.Identity, b); err == nil {
		t.Error("a statement that is none")
	}
	w.rows.breaks = []calpe.ChainBreak{b}
	if err := w.Step(t.Context()); err == nil {
		t.Error("it was published")
	}
	if err := w.objects.ReplaceLogObject(t.Context(), receipt.BreaksPath, []byte("?"), "", ""); err != nil {
		t.Fatal(err)
	}
	good, err := batch.NewBreak(w.log.Identity, w.chainBreak(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := batch.PublishBreak(t.Context(), w.objects, good); err == nil {
		t.Error("added to what can't be read")
	}
	down := errors.New("down")
	w.rows.err = down
	if _, err := batch.BreaksFile(t.Context(), w.rows, w.log.Identity); !errors.Is(err, down) {
		t.Errorf("rows that can't be read: %v", err)
	}
}
