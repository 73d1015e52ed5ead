package postgres

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

var (
	allIndices = [2]uint64{0, math.MaxUint64}
	anyTime    [2]time.Time
)

// openDocuments has, from index 1 on, the registration of two agencies, and
// then documents of ana created a day apart: plain, certified by town, certified
// by province, plain and erased; and one of ben.
func openDocuments(t *testing.T) (*DB, []uint64) {
	t.Helper()
	db := openLog(t)
	mustCommit(t, db, group(t, db, agencySubmission("town")))
	mustCommit(t, db, group(t, db, agencySubmission("province")))
	var indices []uint64
	for n, agency := range []string{"", "town", "province", ""} {
		s := documentSubmission(fmt.Sprint("ana", n), "ana", agency)
		s.Document.Created = testTime.AddDate(0, 0, n)
		indices = append(indices, mustCommit(t, db, group(t, db, s)).Submissions[0].First)
		if n == 3 {
			if err := db.DestroyKey(t.Context(), s.Document.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustCommit(t, db, group(t, db, documentSubmission("ben", "ben", "")))
	return db, indices
}

func TestNewestDocuments(t *testing.T) {
	t.Parallel()
	db, at := openDocuments(t)
	for limit, want := range map[int][]uint64{1: {at[3] + 1}, 3: {at[3] + 1, at[2], at[1]}, 100: {at[3] + 1, at[2], at[1], at[0]}} {
		list, err := db.NewestDocuments(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, d := range list {
			got = append(got, d.Index)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d of them, without the erased one (-want +got):\n%s", limit, diff)
		}
	}
	if _, err := db.NewestDocuments(t.Context(), 0); err == nil {
		t.Error("a list of none was read")
	}
}

func TestListDocuments(t *testing.T) {
	t.Parallel()
	db, at := openDocuments(t)
	for name, c := range map[string]struct {
		owner, agency string
		indices       [2]uint64
		created       [2]time.Time
		limit         int
		want          []uint64
	}{
		"all, without the erased one": {"ana", "", allIndices, anyTime, 10, []uint64{at[2], at[1], at[0]}},
		"a page":                      {"ana", "", allIndices, anyTime, 2, []uint64{at[2], at[1]}},
		"the next page":               {"ana", "", [2]uint64{0, at[1]}, anyTime, 2, []uint64{at[0]}},
		"from an index":               {"ana", "", [2]uint64{at[1], math.MaxUint64}, anyTime, 10, []uint64{at[2], at[1]}},
		"no index":                    {"ana", "", [2]uint64{at[1], at[1]}, anyTime, 10, nil},
		"an agency":                   {"ana", "town", allIndices, anyTime, 10, []uint64{at[1]}},
		"an unknown agency":           {"ana", "moon", allIndices, anyTime, 10, nil},
		"from a time":                 {"ana", "", allIndices, [2]time.Time{testTime.AddDate(0, 0, 1)}, 10, []uint64{at[2], at[1]}},
		"before a time":               {"ana", "", allIndices, [2]time.Time{{}, testTime.AddDate(0, 0, 1)}, 10, []uint64{at[0]}},
		"between":                     {"ana", "town", allIndices, [2]time.Time{testTime, testTime.AddDate(0, 0, 2)}, 10, []uint64{at[1]}},
		"another owner":               {"ben", "", allIndices, anyTime, 10, []uint64{at[3] + 1}},
		"nobody":                      {"", "", allIndices, anyTime, 10, nil},
	} {
		list, err := db.ListDocuments(t.Context(), c.owner, c.agency, c.indices, c.created, c.limit)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []uint64
		for _, d := range list {
			got = append(got, d.Index)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	for _, limit := range []int{0, -1, maxPage + 1} {
		if _, err := db.ListDocuments(t.Context(), "ana", "", allIndices, anyTime, limit); err == nil {
			t.Errorf("limit of %d accepted", limit)
		}
	}
}

func TestKeysAndCertifiersOfAList(t *testing.T) {
	t.Parallel()
	db, at := openDocuments(t)
	list, err := db.ListDocuments(t.Context(), "ana", "", allIndices, anyTime, 10)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d documents, %v", len(list), err)
	}
	erased, err := db.DocumentAt(t.Context(), at[3])
	if err != nil {
		t.Fatal(err)
	}
	keys, err := db.DocumentKeys(t.Context(), []calpe.DocumentID{list[0].ID, erased.ID, list[2].ID, {1}})
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v; want those of the two that have one", len(keys), err)
	}
	for _, k := range keys {
		one, err := db.DocumentKey(t.Context(), k.Document)
		if diff := cmp.Diff(one, k); err != nil || diff != "" {
			t.Errorf("key differs from the one read alone (-alone +listed): %v\n%s", err, diff)
		}
	}
	agencies, err := db.Certifiers(t.Context(), []uint64{list[0].Certification, list[1].Certification, 0, math.MaxUint64})
	want := map[uint64]string{list[0].Certification: "province", list[1].Certification: "town"}
	if diff := cmp.Diff(want, agencies); err != nil || diff != "" {
		t.Errorf("certifiers: %v\n%s", err, diff)
	}
	if _, err := db.DocumentKeys(t.Context(), make([]calpe.DocumentID, maxPage+1)); err == nil {
		t.Error("too many documents accepted")
	}
	if _, err := db.Certifiers(t.Context(), make([]uint64, maxPage+1)); err == nil {
		t.Error("too many indices accepted")
	}
}

// minedIn puts an attempt into block number height, as the only event of it.
func minedIn(t *testing.T, db *DB, height uint32, a ledger.Attempt) {
	t.Helper()
	b := anchorBlock(height)
	next := ledger.Coin{
		Outpoint: calpe.Outpoint{TxID: a.TxID, Vout: 1}, Output: ledger.Output{Value: a.Change, Script: []byte{1}},
		Kind: ledger.ChainCoin, State: ledger.CoinLive, MadeBy: a.TxID, Height: height,
	}
	evidence := calpe.Anchor{
		Payload: a.Payload, TxID: a.TxID, Tx: a.Unsigned, Height: height, Block: b.Hash, Header: b.Header, Position: 1,
		Branch: []calpe.BlockHash{{1}}, Coinbase: bytes.Repeat([]byte{1}, 65), CoinbaseBranch: []calpe.BlockHash{{2}},
	}
	event := ledger.Event{Mined: &ledger.MinedAttempt{Coin: a.Coin, Evidence: evidence, Raw: bytes.Repeat([]byte{9}, 200), Next: next}}
	if err := db.Anchors().ConnectBlock(t.Context(), 1, b, []ledger.Event{event}); err != nil {
		t.Fatal(err)
	}
}

func TestAnchorsByPageAndByTransaction(t *testing.T) {
	t.Parallel()
	db, _ := openAnchors(t)
	s := db.Anchors()
	first := anchorAttempt(1)
	_, err := s.ByTxID(t.Context(), first.TxID)
	wantErr(t, "an attempt that isn't mined", err, calpe.ErrNotFound)
	minedIn(t, db, 3, first)
	second := anchorAttempt(2)
	second.Coin = calpe.Outpoint{TxID: first.TxID, Vout: 1}
	second.Inputs[0].Outpoint, second.N, second.Size = second.Coin, 1, 9
	if err := s.CreateAttempt(t.Context(), 1, second); err != nil {
		t.Fatal(err)
	}
	minedIn(t, db, 4, second)

	for name, c := range map[string]struct {
		height, position uint32
		limit            int
		want             []calpe.BlockHash
	}{
		"all":                     {math.MaxUint32, math.MaxUint32, 10, []calpe.BlockHash{second.TxID, first.TxID}},
		"a page":                  {math.MaxUint32, math.MaxUint32, 1, []calpe.BlockHash{second.TxID}},
		"the next":                {4, 1, 1, []calpe.BlockHash{first.TxID}},
		"behind it in its block":  {4, 2, 1, []calpe.BlockHash{second.TxID}},
		"before the first of all": {3, 1, 10, nil},
	} {
		list, err := s.Before(t.Context(), c.height, c.position, c.limit)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []calpe.BlockHash
		for _, a := range list {
			got = append(got, a.TxID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if _, err := s.Before(t.Context(), 1, 1, 0); err == nil {
		t.Error("limit of 0 accepted")
	}
	for name, c := range map[string]struct {
		first uint64
		limit int
		want  []calpe.BlockHash
	}{
		"all":            {0, 10, []calpe.BlockHash{first.TxID, second.TxID}},
		"the first":      {0, 1, []calpe.BlockHash{first.TxID}},
		"from a number":  {1, 10, []calpe.BlockHash{second.TxID}},
		"behind the end": {2, 10, nil},
		"beyond numbers": {math.MaxUint64, 10, nil},
	} {
		list, err := s.Chain(t.Context(), c.first, c.limit)
		if err != nil {
			t.Fatalf("chain, %s: %v", name, err)
		}
		var got []calpe.BlockHash
		for _, a := range list {
			got = append(got, a.TxID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("chain, %s: %v, want %v", name, got, c.want)
		}
	}
	if _, err := s.Chain(t.Context(), 0, 0); err == nil {
		t.Error("limit of 0 accepted")
	}
	a, err := s.ByTxID(t.Context(), first.TxID)
	if err != nil || a.Size != first.Size || a.Height != 3 || a.Depth != 2 || a.Final {
		t.Errorf("%+v, %v", a, err)
	}
	if err := s.Rewind(t.Context(), 1, anchorBlock(4), anchorBlock(2)); err != nil {
		t.Fatal(err)
	}
	_, err = s.ByTxID(t.Context(), first.TxID)
	wantErr(t, "an anchor that a reorganisation took back", err, calpe.ErrNotFound)
}
