package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
)

// testKey is a key that is the same in every run: its seed is a hash of its name
// and of what tells two keys of one name apart.
func testKey(tb testing.TB, name, which string) statement.Key {
	tb.Helper()
	seed := sha256.Sum256([]byte("calpe test key " + name + which))
	public := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	id := sha256.Sum256(slices.Concat([]byte(name), []byte{'\n', 1}, public))
	secret := base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...))
	k, err := statement.ParseKey(fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, id[:4], secret))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// The indices of the entries of the test log.
const (
	entryIdentity = iota
	entryAgency
	entryOther
	entryDocument
	entryCertification
	entryPlain
	entryFiller
	anchoredSize // from here on the entries are younger than the anchor
)
const (
	entryLate        = 9 // checkpointed, not anchored
	checkpointedSize = 10
	entryReceived    = 12 // acknowledged in the group of 11 to 13, not checkpointed
	groupFirst       = 11
	groupCount       = 3
	logSize          = groupFirst + groupCount
)

const (
	anchorHeight = 5
	tipHeight    = 12
)

// world is a whole deployment that is the same in every run: a log with its
// keys, documents in each state, and a regtest chain with its anchor.
type world struct {
	tb       testing.TB
	id       Identity
	agency   statement.Key
	digests  []calpe.Digest // what each entry commits to
	salts    []calpe.Salt
	leaves   []calpe.Hash
	signed   map[int]statement.Signed
	raw      []byte // headers, genesis to tip
	chain    *headers.Chain
	anchor   calpe.Anchor
	blockTxs [][]byte // of the anchor's block
}

const testOrigin = "log.calpe.example"

func document(index int) []byte {
	return fmt.Appendf(nil, "This is document %d.\n", index)
}

func newWorld(tb testing.TB, origin string) *world {
	tb.Helper()
	w := &world{tb: tb, agency: testKey(tb, "registry-of-calpe", ""), signed: map[int]statement.Signed{}}
	w.id = newIdentity(tb, origin)
	for i := range logSize {
		w.digests = append(w.digests, sha256.Sum256(document(i)))
		salt := sha256.Sum256(fmt.Appendf(nil, "calpe test salt %d of %s", i, origin))
		w.salts = append(w.salts, calpe.Salt(salt[:16]))
	}
	w.sign(entryAgency, testKey(tb, StatementKeyName(origin), ""), w.registration())
	w.sign(entryCertification, w.agency, w.certification())
	for i := range logSize {
		e := calpe.Entry{Index: uint64(i), Commitment: calpe.Commit(w.digests[i], w.salts[i])}
		if i == entryIdentity {
			e = w.id.Entry()
		}
		b := e.Bytes()
		w.leaves = append(w.leaves, merkle.LeafHash(b[:]))
	}
	w.mine()
	return w
}

func newIdentity(tb testing.TB, origin string) Identity {
	tb.Helper()
	id := Identity{
		Origin: origin, Network: calpe.Regtest, Genesis: doubleHash(genesis(tb, calpe.Regtest)),
		FirstOutpoint:       &calpe.Outpoint{TxID: doubleHash([]byte("the first coin of " + origin)), Vout: 1},
		CheckpointKeys:      []string{testKey(tb, origin, "").Verifier()},
		AcknowledgementKeys: []string{testKey(tb, AcknowledgementKeyName(origin), "").Verifier()},
		StatementKeys: []string{testKey(tb, StatementKeyName(origin), "old").Verifier(),
			testKey(tb, StatementKeyName(origin), "").Verifier()},
	}
	if err := id.Validate(); err != nil {
		tb.Fatal(err)
	}
	return id
}

func genesis(tb testing.TB, network calpe.Network) []byte {
	tb.Helper()
	p, err := headers.ParamsFor(network)
	if err != nil {
		tb.Fatal(err)
	}
	return p.Genesis[:]
}

var testTime = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC) // of the anchor's block

func (w *world) registration() statement.Agency {
	return statement.Agency{Log: w.id.Hash(), Agency: "registry-of-calpe", Name: "Registro Civil de Calp",
		Key: w.agency.Verifier(), Time: testTime.Add(-24 * time.Hour)}
}

func (w *world) certification() statement.Certification {
	return statement.Certification{Agency: "registry-of-calpe", Digest: w.digests[entryDocument],
		DocumentType: "birth certificate", Subject: "REG-2026-000123", Issued: "2026-11-20", ValidUntil: "2036-11-19"}
}

// sign makes the entry at index that of a statement.
func (w *world) sign(index int, key statement.Key, body statement.Body) {
	w.tb.Helper()
	s, err := statement.Sign(key, body)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.signed[index] = s
	w.digests[index] = s.Digest()
}

func (w *world) checkpointNote(size int) []byte {
	w.tb.Helper()
	msg, err := SignCheckpoint(testKey(w.tb, w.id.Origin, ""), w.id.Origin, uint64(size), merkle.Root(w.leaves[:size]))
	if err != nil {
		w.tb.Fatal(err)
	}
	return msg
}

func (w *world) acknowledgementNote() []byte {
	w.tb.Helper()
	msg, err := SignAcknowledgement(testKey(w.tb, AcknowledgementKeyName(w.id.Origin), ""), Acknowledgement{
		Log: w.id.Hash(), First: groupFirst, Count: groupCount, Root: merkle.Root(w.leaves[groupFirst:]),
		Time: testTime, Deadline: testTime.Add(time.Hour)})
	if err != nil {
		w.tb.Fatal(err)
	}
	return msg
}

func (w *world) path(leaves []calpe.Hash, index int) []calpe.Hash {
	w.tb.Helper()
	path, err := merkle.InclusionPath(leaves, uint64(index))
	if err != nil {
		w.tb.Fatal(err)
	}
	return path
}

// evidence is all that the service has for an entry, in the state it has reached.
func (w *world) evidence(index int) Evidence {
	w.tb.Helper()
	e := Evidence{Identity: w.id, Digest: w.digests[index], Salt: w.salts[index], Index: uint64(index)}
	switch size := checkpointedSize; {
	case index >= groupFirst:
		e.Acknowledgement = w.acknowledgementNote()
		e.AcknowledgementPath = w.path(w.leaves[groupFirst:], index-groupFirst)
		return e
	case index < anchoredSize:
		size = anchoredSize
		e.Anchor = &w.anchor
		fallthrough
	default:
		e.Checkpoint = w.checkpointNote(size)
		e.Path = w.path(w.leaves[:size], index)
	}
	if index == entryDocument {
		e.Certification = &CertificationEvidence{
			Statement: w.signed[entryCertification], Salt: w.salts[entryCertification], Index: entryCertification,
			Path:   w.path(w.leaves[:anchoredSize], entryCertification),
			Agency: w.signed[entryAgency], AgencySalt: w.salts[entryAgency], AgencyIndex: entryAgency,
			AgencyPath: w.path(w.leaves[:anchoredSize], entryAgency),
		}
	}
	return e
}

func (w *world) issue(index int) Receipt {
	w.tb.Helper()
	r, err := Issue(w.evidence(index))
	if err != nil {
		w.tb.Fatal(err)
	}
	return r
}

// input is a verifier that has everything.
func (w *world) input(r Receipt) Input {
	return Input{Digest: r.Digest, Receipt: r, Headers: w.chain, Identity: &w.id}
}

// mine makes a chain of blocks up to tipHeight, and the anchor in one of them.
func (w *world) mine() {
	w.tb.Helper()
	w.raw = bytes.Clone(genesis(w.tb, calpe.Regtest))
	for height := 1; height <= tipHeight; height++ {
		txs := [][]byte{coinbaseTx(height)}
		if height == anchorHeight {
			txs = w.anchorBlock()
		}
		w.raw = append(w.raw, mineHeader(w.raw, height, txRoot(txs))...)
	}
	w.chain = readChain(w.tb, w.raw)
	w.anchor = w.anchorOf(w.blockTxs, 3)
	copy(w.anchor.Header[:], w.raw[anchorHeight*80:])
	w.anchor.Block = doubleHash(w.anchor.Header[:])
}

// anchorBlock is five transactions, so that the tree has odd levels; the anchor
// is the one at position 3.
func (w *world) anchorBlock() [][]byte {
	payload := calpe.Payload{Size: anchoredSize, Root: merkle.Root(w.leaves[:anchoredSize])}
	spends := func(name string) calpe.Outpoint { return calpe.Outpoint{TxID: doubleHash([]byte(name))} }
	w.blockTxs = [][]byte{
		coinbaseTx(anchorHeight),
		rawTx(spends("somebody's coin"), testOutput{600, payToNobody("a")}),
		rawTx(spends("another coin"), testOutput{700, payToNobody("b")}, testOutput{800, payToNobody("c")}),
		rawTx(*w.id.FirstOutpoint, testOutput{0, payload.Script()}, testOutput{99_000, payToNobody("anchor")}),
		rawTx(spends("a last coin"), testOutput{900, payToNobody("d")}),
	}
	return w.blockTxs
}

// anchorOf is the evidence for the transaction at a position of a block.
func (w *world) anchorOf(txs [][]byte, position int) calpe.Anchor {
	return calpe.Anchor{
		Payload: calpe.Payload{Size: anchoredSize, Root: merkle.Root(w.leaves[:anchoredSize])},
		Tx:      txs[position], TxID: doubleHash(txs[position]), Height: anchorHeight,
		Position: uint32(position), Branch: txBranch(txs, position),
		Coinbase: txs[0], CoinbaseBranch: txBranch(txs, 0), Depth: tipHeight - anchorHeight + 1,
	}
}

func readChain(tb testing.TB, raw []byte) *headers.Chain {
	tb.Helper()
	return readChainOf(tb, calpe.Regtest, raw)
}

func readChainOf(tb testing.TB, network calpe.Network, raw []byte) *headers.Chain {
	tb.Helper()
	p, err := headers.ParamsFor(network)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := headers.ReadPartial(bytes.NewReader(raw), p)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// mineHeader makes the header of a block behind the last of raw.
func mineHeader(raw []byte, height int, root calpe.BlockHash) []byte {
	prev := doubleHash(raw[len(raw)-80:])
	at := testTime.Add(time.Duration(height-anchorHeight) * 10 * time.Minute)
	h := binary.LittleEndian.AppendUint32(nil, 0x20000000)
	h = append(h, prev[:]...)
	h = append(h, root[:]...)
	h = binary.LittleEndian.AppendUint32(h, uint32(at.Unix()))
	h = binary.LittleEndian.AppendUint32(h, 0x207fffff)
	limit := new(big.Int).Lsh(big.NewInt(0x7fffff), 8*(0x20-3))
	for nonce := uint32(0); ; nonce++ {
		mined := binary.LittleEndian.AppendUint32(bytes.Clone(h), nonce)
		hash := doubleHash(mined)
		slices.Reverse(hash[:])
		if new(big.Int).SetBytes(hash[:]).Cmp(limit) <= 0 {
			return mined
		}
	}
}

type testOutput struct {
	value  uint64
	script []byte
}

func payToNobody(name string) []byte {
	h := sha256.Sum256([]byte(name))
	return append([]byte{0, 20}, h[:20]...)
}

func coinbaseTx(height int) []byte {
	return rawTxScript(calpe.Outpoint{Vout: 0xffffffff}, []byte{1, byte(height), 0}, testOutput{50_0000_0000, payToNobody("miner")})
}

func rawTx(spends calpe.Outpoint, outputs ...testOutput) []byte {
	return rawTxScript(spends, nil, outputs...)
}

func rawTxScript(spends calpe.Outpoint, script []byte, outputs ...testOutput) []byte {
	tx := []byte{2, 0, 0, 0, 1}
	tx = append(tx, spends.TxID[:]...)
	tx = binary.LittleEndian.AppendUint32(tx, spends.Vout)
	tx = append(tx, byte(len(script)))
	tx = append(tx, script...)
	tx = append(tx, 0xfd, 0xff, 0xff, 0xff, byte(len(outputs)))
	for _, o := range outputs {
		tx = binary.LittleEndian.AppendUint64(tx, o.value)
		tx = append(tx, byte(len(o.script)))
		tx = append(tx, o.script...)
	}
	return append(tx, 0, 0, 0, 0)
}

// txLevel is one level of a block's tree, from the level below.
func txLevel(below []calpe.BlockHash) (level []calpe.BlockHash) {
	for i := 0; i < len(below); i += 2 {
		left, right := below[i], below[min(i+1, len(below)-1)]
		level = append(level, doubleHash(slices.Concat(left[:], right[:])))
	}
	return level
}

func txIDs(txs [][]byte) (ids []calpe.BlockHash) {
	for _, tx := range txs {
		ids = append(ids, doubleHash(tx))
	}
	return ids
}

func txRoot(txs [][]byte) calpe.BlockHash {
	level := txIDs(txs)
	for len(level) > 1 {
		level = txLevel(level)
	}
	return level[0]
}

func txBranch(txs [][]byte, position int) (branch []calpe.BlockHash) {
	for level := txIDs(txs); len(level) > 1; level = txLevel(level) {
		branch = append(branch, level[min(position^1, len(level)-1)])
		position /= 2
	}
	return branch
}
