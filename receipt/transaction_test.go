package receipt

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/wire/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
)

// A real transaction: the first one between two people, in block 170 of mainnet.
const tx170 = "0100000001c997a5e56e104102fa209c6a852dd90660a20b2d9c352423edce25857fcd3704000000004847304402204e45e16932b8af514961a1d3a1a25fdf3f4f7732e9d624c6c61548ab5fb8cd410220181522ec8eca07de4860a4acdd12909d831cc56cbbac4622082221a8768d1d0901ffffffff0200ca9a3b00000000434104ae1a62fe09c5f51b13905f07f06b99a2f7159b2225f374cd378d71302fa28414e7aab37397f554a7df5f142c21c1b7303b8a0626f1baded5c72a704f7e6cd84cac00286bee0000000043410411db93e1dcdb8a016b49840f8c53bc1eb68a382e97b1482ecad7b148a6909a5cb2e0eaddfb84ccf9744464f82e160bfa9b8b64f9d4c03f999b8643f656b412a3ac00000000"

// The first transaction of mainnet's genesis block.
const genesisCoinbase = "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"

func mustHex(tb testing.TB, text string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestParseRealTransactions(t *testing.T) {
	tx, err := parseTransaction(mustHex(t, tx170))
	if err != nil {
		t.Fatal(err)
	}
	if got := tx.id.String(); got != "f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16" {
		t.Errorf("txid %s", got)
	}
	if got := tx.inputs[0].String(); got != "0437cd7f8525ceed2324359c2d0ba26006d92d856a9c20fa0241106ee5a597c9:0" || tx.isCoinbase() {
		t.Errorf("spends %s, coinbase %v", got, tx.isCoinbase())
	}
	tx, err = parseTransaction(mustHex(t, genesisCoinbase))
	if err != nil || !tx.isCoinbase() {
		t.Errorf("genesis: %v, coinbase %v", err, tx.isCoinbase())
	}
	if got := tx.id.String(); got != "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b" {
		t.Errorf("txid %s", got)
	}
}

// TestParseTransactionLikeBtcd reads random transactions, whole and spoilt, with
// btcd too. What we read, btcd reads in the same way, and writes the same bytes.
func TestParseTransactionLikeBtcd(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 3000 {
		raw := randomTransaction(t, rng)
		if rng.IntN(3) == 0 {
			raw[rng.IntN(len(raw))] ^= 1 << rng.IntN(8)
		}
		if compareWithBtcd(t, raw) {
			accepted++
		}
	}
	if accepted < 2000 || accepted == 3000 {
		t.Errorf("%d of 3000 transactions were accepted: the test shows nothing", accepted)
	}
}

// compareWithBtcd reports whether raw was accepted.
func compareWithBtcd(t *testing.T, raw []byte) bool {
	t.Helper()
	got, err := parseTransaction(raw)
	if err != nil {
		return false
	}
	var tx wire.MsgTx
	r := bytes.NewReader(raw)
	if err := tx.DeserializeNoWitness(r); err != nil || r.Len() != 0 {
		t.Fatalf("%x: we accept it, btcd says %v, %d bytes left", raw, err, r.Len())
	}
	want := transaction{id: calpe.BlockHash(tx.TxHash())}
	for _, in := range tx.TxIn {
		want.inputs = append(want.inputs, calpe.Outpoint{TxID: calpe.BlockHash(in.PreviousOutPoint.Hash), Vout: in.PreviousOutPoint.Index})
	}
	for _, out := range tx.TxOut {
		want.scripts = append(want.scripts, out.PkScript)
		want.values = append(want.values, uint64(out.Value))
	}
	equalScript := cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })
	if d := cmp.Diff(want, got, cmp.AllowUnexported(transaction{}), equalScript); d != "" {
		t.Errorf("%x (-btcd +got):\n%s", raw, d)
	}
	var again bytes.Buffer
	if err := tx.SerializeNoWitness(&again); err != nil || !bytes.Equal(again.Bytes(), raw) {
		t.Errorf("%x has another spelling: %x, %v", raw, again.Bytes(), err)
	}
	return true
}

func randomTransaction(t *testing.T, rng *rand.Rand) []byte {
	t.Helper()
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	tx := wire.NewMsgTx(int32(rng.Uint32()))
	for range 1 + rng.IntN(4) {
		in := &wire.TxIn{SignatureScript: random(rng.IntN(300)), Sequence: rng.Uint32()}
		copy(in.PreviousOutPoint.Hash[:], random(32))
		tx.AddTxIn(in)
	}
	for range 1 + rng.IntN(4) {
		tx.AddTxOut(wire.NewTxOut(rng.Int64(), random(rng.IntN(300))))
	}
	var b bytes.Buffer
	if err := tx.SerializeNoWitness(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestParseTransactionRefuses(t *testing.T) {
	good := mustHex(t, tx170)
	zeros := func(n int) []byte { return make([]byte, n) }
	tests := []struct {
		name, want string
		raw        []byte
	}{
		{"empty", "ends too early", nil},
		{"64 bytes", "inner node", zeros(64)},
		{"too large", "more than 100000", zeros(MaxTransactionSize + 1)},
		{"no inputs", "no inputs", slices.Concat(good[:4], zeros(10))},
		{"no outputs", "no outputs", slices.Concat(good[:4], []byte{1}, zeros(41), []byte{0}, zeros(20))},
		{"many inputs", "ends too early", slices.Concat(good[:4], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, zeros(50))},
		{"more inputs than bytes", "ends too early", slices.Concat(good[:4], []byte{0xfe, 0, 0, 1, 0}, zeros(50))},
		{"script longer than the rest", "ends too early", slices.Concat(good[:41], []byte{0xfe, 0xff, 0xff, 0xff, 0x7f}, good[42:])},
		{"count of 2 bytes for 1", "shortest", slices.Concat(good[:4], []byte{0xfd, 1, 0}, good[5:])},
		{"count of 4 bytes for 1", "shortest", slices.Concat(good[:4], []byte{0xfe, 1, 0, 0, 0}, good[5:])},
		{"count of 8 bytes for 1", "shortest", slices.Concat(good[:4], []byte{0xff, 1, 0, 0, 0, 0, 0, 0, 0}, good[5:])},
		{"count of 2 bytes for 252", "shortest", slices.Concat(good[:41], []byte{0xfd, 252, 0}, good[42:])},
		{"witness", "no inputs", slices.Concat(good[:4], []byte{0, 1}, good[4:len(good)-4], []byte{0}, good[len(good)-4:])},
		{"trailing byte", "follow", append(slices.Clone(good), 0)},
		{"two transactions", "follow", slices.Concat(good, good)},
	}
	for _, tt := range tests {
		if _, err := parseTransaction(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	for n := range good {
		if _, err := parseTransaction(good[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes it was accepted", n, len(good))
		}
	}
}

func TestLargestTransaction(t *testing.T) {
	raw := bigTransaction(MaxTransactionSize)
	if len(raw) != MaxTransactionSize || !compareWithBtcd(t, raw) {
		t.Errorf("a transaction of %d bytes was refused", len(raw))
	}
}

// TestBranchRoot leads from every transaction of blocks of every size up to 40,
// and from no position that a block doesn't have.
func TestBranchRoot(t *testing.T) {
	for n := 1; n <= 40; n++ {
		var txs [][]byte
		for i := range n {
			txs = append(txs, []byte{byte(n), byte(i)})
		}
		ids, root := txIDs(txs), txRoot(txs)
		for i := range n {
			branch := txBranch(txs, i)
			got, err := branchRoot(ids[i], uint32(i), branch)
			if err != nil || got != root {
				t.Fatalf("transaction %d of %d: %v, %v", i, n, got, err)
			}
			for _, position := range otherPositions(i, len(branch)) {
				if got, err := branchRoot(ids[i], position, branch); err == nil && got == root {
					t.Errorf("transaction %d of %d verifies at position %d", i, n, position)
				}
			}
		}
	}
}

// otherPositions are all with as many bits and some with more.
func otherPositions(position, levels int) (others []uint32) {
	for i := range uint32(1) << (levels + 1) {
		if i != uint32(position) {
			others = append(others, i)
		}
	}
	return append(others, uint32(position)|1<<31)
}
