package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/btcsuite/btcd/wire/v2"
	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// published is the public log, read and checked as a stranger does.
type published struct {
	checkpoint  calpe.Checkpoint
	commitments []calpe.Commitment // by index
	roots       map[uint64]calpe.Hash
}

func (p published) voids() (n uint64) {
	for _, c := range p.commitments {
		if c.IsVoid() {
			n++
		}
	}
	return n
}

// readLog reads the newest checkpoint and all entries behind it, and holds them
// together (I2, I3). It keeps the roots of the sizes that are asked for.
func (s *server) readLog(sizes []uint64) published {
	t := s.d.t
	t.Helper()
	status, note, err := s.d.get(t.Context(), s.url+"/log/checkpoint", "")
	if err != nil || status != http.StatusOK {
		t.Fatalf("read checkpoint: %d %s %v", status, note, err)
	}
	cp, err := receipt.OpenCheckpoint(note, s.d.identity)
	if err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	p := published{checkpoint: cp, roots: map[uint64]calpe.Hash{}}
	tree, err := merkle.LoadEdge(0, merkle.EmptyRoot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[uint64]bool{}
	for _, size := range sizes {
		wanted[size] = true
	}
	for b := range merkle.BundlesFor(0, cp.Size) {
		path := merkle.EntryBundlePath(b.Index, b.Width)
		status, data, err := s.d.get(t.Context(), s.url+"/log/"+path, "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("read %s: %d %v", path, status, err)
		}
		entries, err := merkle.ParseEntryBundle(b, data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, e := range entries {
			raw := e.Bytes()
			if err := tree.Append([]calpe.Hash{merkle.LeafHash(raw[:])}); err != nil {
				t.Fatal(err)
			}
			p.commitments = append(p.commitments, e.Commitment)
			if wanted[tree.Size()] {
				p.roots[tree.Size()] = tree.Root()
			}
		}
	}
	if tree.Root() != cp.Root {
		t.Fatalf("the root of the %d entries is %v, the checkpoint says %v (I3)", cp.Size, tree.Root(), cp.Root)
	}
	if p.commitments[0] != s.d.identity.Entry().Commitment {
		t.Fatalf("entry 0 is not the identity")
	}
	return p
}

// spend is one link of the chain of coins.
type spend struct {
	txid    calpe.BlockHash
	coin    calpe.Outpoint
	payload calpe.Payload
	fee     int64
	height  uint32
}

// followCoins goes through all blocks from the first outpoint by spends, with
// nothing but the identity and the node.
func (d *deployment) followCoins() (links []spend, live calpe.Outpoint) {
	d.t.Helper()
	ctx := d.t.Context()
	tip, _, err := d.node.client.BestBlock(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	live = *d.identity.FirstOutpoint
	values := map[calpe.Outpoint]int64{} // of all outputs, because deposits join anchors
	for height := uint32(1); height <= tip; height++ {
		hash, err := d.node.client.BlockHash(ctx, height)
		if err != nil {
			d.t.Fatal(err)
		}
		block, err := d.node.client.Block(ctx, hash)
		if err != nil {
			d.t.Fatal(err)
		}
		for _, tx := range block.Transactions {
			txid := calpe.BlockHash(tx.TxHash())
			fee := moved(tx, txid, values)
			payload, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
			anchor := err == nil
			in := tx.TxIn[0].PreviousOutPoint
			spends := calpe.Outpoint{TxID: calpe.BlockHash(in.Hash), Vout: in.Index} == live
			switch {
			case spends != anchor:
				d.t.Fatalf("transaction %v in block %d: spends the coin %v: %v, has a payload: %v", txid, height, live, spends, anchor)
			case !spends:
				continue
			case len(tx.TxOut) != 2 || tx.TxOut[0].Value != 0:
				d.t.Fatalf("anchor %v in block %d has another form than an anchor", txid, height)
			}
			links = append(links, spend{txid, live, payload, fee, height})
			live = calpe.Outpoint{TxID: txid, Vout: 1}
		}
	}
	return links, live
}

// moved is what a transaction pays as fee. It keeps the values of its outputs.
func moved(tx *wire.MsgTx, txid calpe.BlockHash, values map[calpe.Outpoint]int64) (fee int64) {
	for _, in := range tx.TxIn {
		fee += values[calpe.Outpoint{TxID: calpe.BlockHash(in.PreviousOutPoint.Hash), Vout: in.PreviousOutPoint.Index}]
	}
	for vout, out := range tx.TxOut {
		fee -= out.Value
		values[calpe.Outpoint{TxID: txid, Vout: uint32(vout)}] = out.Value
	}
	return fee
}

// verdict is what the whole-state check found, for the summary.
type verdict struct {
	log            published
	entries, voids uint64
	anchors        int
	recoveries     int
}

// loss says which acknowledgements may not be honoured: those whose database was
// replaced by an older copy. Of them the log may hold the same commitment or
// void, and object storage may hold locked documents that no row names. Nil:
// nothing may be lost.
type loss func(a acknowledged) bool

// check holds everything that was acknowledged against the log, object storage,
// the database and the chain. Load must have stopped and somebody must mine.
func (s *server) check(acks []acknowledged, lost loss) verdict {
	t := s.d.t
	t.Helper()
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.awaitFinal(st.Next)
	conn := s.d.connect()
	sizes := s.d.checkpointRows(conn)
	links, live := s.d.followCoins()
	for _, l := range links {
		sizes[l.payload.Size] = calpe.Hash{}
	}
	known := s.d.checkpointRows(conn)
	log := s.readLog(keysOf(sizes))
	for size, root := range known {
		if size <= log.checkpoint.Size && log.roots[size] != root {
			t.Errorf("checkpoint row of size %d has root %v, the entries %v (I3)", size, root, log.roots[size])
		}
	}
	s.d.checkChain(conn, links, live, log)
	s.d.checkRows(conn, log)
	s.checkAcknowledged(acks, lost, log)
	s.d.checkObjects(conn, lost != nil)
	var recoveries int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM statement WHERE type = 'calpe/recovery/v1'").Scan(&recoveries); err != nil {
		t.Fatal(err)
	}
	return verdict{log: log, entries: log.checkpoint.Size, voids: log.voids(), anchors: len(links), recoveries: recoveries}
}

func keysOf(m map[uint64]calpe.Hash) (keys []uint64) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

func (d *deployment) checkpointRows(conn *pgx.Conn) map[uint64]calpe.Hash {
	d.t.Helper()
	rows, err := conn.Query(d.t.Context(), "SELECT size, root FROM checkpoint")
	if err != nil {
		d.t.Fatal(err)
	}
	found := map[uint64]calpe.Hash{}
	var size int64
	var root []byte
	_, err = pgx.ForEachRow(rows, []any{&size, &root}, func() error {
		found[uint64(size)] = calpe.Hash(root)
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return found
}

// checkChain: payloads grow, each is a prefix of the one log, and the rows of
// attempts and coins say what the chain says.
func (d *deployment) checkChain(conn *pgx.Conn, links []spend, live calpe.Outpoint, log published) {
	d.t.Helper()
	var size uint64
	for _, l := range links {
		if l.payload.Size <= size {
			d.t.Errorf("anchor %v in block %d has size %d after %d", l.txid, l.height, l.payload.Size, size)
		}
		size = l.payload.Size
		if size > log.checkpoint.Size {
			d.t.Errorf("anchor %v covers %d entries, the log has %d", l.txid, size, log.checkpoint.Size)
		} else if root := log.roots[size]; root != l.payload.Root {
			d.t.Errorf("anchor %v of size %d has root %v, the entries %v (I3)", l.txid, size, l.payload.Root, root)
		}
		var fee *int64
		var spentBy []byte
		var state string
		err := conn.QueryRow(d.t.Context(),
			`SELECT a.fee, a.state, c.spent_by FROM attempt a JOIN coin c ON c.txid = a.coin_txid AND c.vout = a.coin_vout
			 WHERE a.txid = $1 AND c.txid = $2 AND c.vout = $3`, l.txid[:], l.coin.TxID[:], int64(l.coin.Vout)).Scan(&fee, &state, &spentBy)
		switch {
		case err != nil:
			d.t.Errorf("row of the anchor %v: %v", l.txid, err)
		case fee == nil || *fee != l.fee:
			d.t.Errorf("anchor %v paid %d, its row says %v", l.txid, l.fee, fee)
		case state != "mined" && state != "final":
			d.t.Errorf("anchor %v is in block %d, its row says %s", l.txid, l.height, state)
		case !bytes.Equal(spentBy, l.txid[:]):
			d.t.Errorf("coin %v was spent by %v, its row says another", l.coin, l.txid)
		}
	}
	var mined, liveCoins int
	if err := conn.QueryRow(d.t.Context(),
		"SELECT (SELECT count(*) FROM attempt WHERE state IN ('mined', 'final')), (SELECT count(*) FROM coin WHERE state = 'live' AND txid = $1 AND vout = $2)",
		live.TxID[:], int64(live.Vout)).Scan(&mined, &liveCoins); err != nil {
		d.t.Fatal(err)
	}
	if mined != len(links) || liveCoins != 1 {
		d.t.Errorf("rows: %d anchors in blocks and %d live coin %v; the chain has %d", mined, liveCoins, live, len(links))
	}
}

// checkRows: the database's entries are dense, and those of the published log.
func (d *deployment) checkRows(conn *pgx.Conn, log published) {
	d.t.Helper()
	rows, err := conn.Query(d.t.Context(), "SELECT first, count, commitments, origin FROM entry_group ORDER BY first")
	if err != nil {
		d.t.Fatal(err)
	}
	var first, count int64
	var commitments []byte
	var origin string
	next := int64(0)
	_, err = pgx.ForEachRow(rows, []any{&first, &count, &commitments, &origin}, func() error {
		if first != next {
			return fmt.Errorf("group at %d, want %d (I2)", first, next)
		}
		for i := range count {
			c := calpe.Commitment(commitments[32*i:])
			if index := uint64(first + i); index < log.checkpoint.Size && log.commitments[index] != c {
				return fmt.Errorf("entry %d is %v in the database, %v in the published log (I2)", index, c, log.commitments[index])
			}
			// What was void is void also when it was rolled forward.
			if c.IsVoid() && origin == "intake" || !c.IsVoid() && origin == "void" {
				return fmt.Errorf("entry %d of origin %s has commitment %v", first+i, origin, c)
			}
		}
		next += count
		return nil
	})
	if err != nil {
		d.t.Errorf("rows of entries: %v", err)
	}
	if uint64(next) < log.checkpoint.Size {
		d.t.Errorf("the database has %d entries, the published log %d", next, log.checkpoint.Size)
	}
}

// checkAcknowledged: everything that was signed for is there, under its index,
// final, with a receipt that verifies offline.
func (s *server) checkAcknowledged(acks []acknowledged, lost loss, log published) {
	t := s.d.t
	t.Helper()
	chain := s.d.node.headers()
	byIndex := map[uint64]string{}
	var mu sync.Mutex
	take := func(index uint64, a acknowledged) {
		mu.Lock()
		defer mu.Unlock()
		if other, taken := byIndex[index]; taken {
			t.Errorf("index %d was given to %s %s and to %s (I2)", index, a.kind, a.key, other)
		}
		byIndex[index] = a.key
	}
	work := make(chan acknowledged)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for a := range work {
				take(a.index, a)
				if lost != nil && lost(a) {
					s.checkLost(a, log)
				} else if err := s.checkOne(a, log, chain, take); err != nil {
					t.Errorf("%s %s, index %d: %v", a.kind, a.key, a.index, err)
				}
			}
		})
	}
	for _, a := range acks {
		work <- a
	}
	close(work)
	workers.Wait()
}

// checkLost: an index whose database is lost has the same commitment or void. The
// acknowledgement itself tells whether it is the same one, also for a document
// whose salt is lost.
func (s *server) checkLost(a acknowledged, log published) {
	s.d.t.Helper()
	if a.index >= uint64(len(log.commitments)) {
		s.d.t.Errorf("index %d was acknowledged to %s %s, and the log has %d entries", a.index, a.kind, a.key, len(log.commitments))
		return
	}
	if !log.commitments[a.index].IsVoid() && !s.d.kept(a, log) {
		s.d.t.Errorf("index %d was acknowledged to %s %s, and has another commitment now (I2)", a.index, a.kind, a.key)
	}
}

// kept reports whether the log holds what was acknowledged.
func (d *deployment) kept(a acknowledged, log published) bool {
	entry := calpe.Entry{Index: a.index, Commitment: log.commitments[a.index]}
	_, err := receipt.VerifyAcknowledged(entry, []byte(a.note), a.path, d.identity)
	return err == nil
}

func (s *server) checkOne(a acknowledged, log published, chain *headers.Chain, take func(uint64, acknowledged)) error {
	if a.index >= log.checkpoint.Size {
		return fmt.Errorf("the log has %d entries", log.checkpoint.Size)
	}
	if a.kind == stampKind {
		if got := log.commitments[a.index]; got != a.commitment {
			return fmt.Errorf("the log holds %v, acknowledged was %v (I2)", got, a.commitment)
		}
		if a.seed%50 == 0 {
			return s.checkEntry(a, log)
		}
		return s.checkRepeated(a)
	}
	if err := s.checkDocument(a, log, chain, take); err != nil {
		return err
	}
	return s.checkRepeated(a)
}

// checkRepeated: a repeated request gets the same answer, now and then.
func (s *server) checkRepeated(a acknowledged) error {
	if a.seed%20 != 0 || a.kind == largeKind && a.seed%3 != 0 {
		return nil
	}
	again, err := s.d.send(s.d.t.Context(), s.url, a.request)
	if err != nil {
		return fmt.Errorf("repeat: %w", err)
	}
	if again.index != a.index || again.id != a.id || again.note != a.note || !slices.Equal(again.path, a.path) {
		return fmt.Errorf("the repeated request was given index %d and document %q, note equal: %v", again.index, again.id, again.note == a.note)
	}
	return nil
}

// checkEntry: the public proof of a commitment holds.
func (s *server) checkEntry(a acknowledged, log published) error {
	var got struct {
		Index      uint64           `json:"index"`
		Commitment calpe.Commitment `json:"commitment"`
		State      string           `json:"state"`
		Checkpoint string           `json:"checkpoint"`
		Path       receipt.Path     `json:"path"`
		Anchor     *receipt.Anchor  `json:"anchor"`
	}
	if err := s.d.getJSON(s.d.t.Context(), fmt.Sprintf("%s/v1/entries/%d", s.url, a.index), &got); err != nil {
		return err
	}
	cp, err := receipt.OpenCheckpoint([]byte(got.Checkpoint), s.d.identity)
	if err != nil {
		return err
	}
	entry := calpe.Entry{Index: a.index, Commitment: a.commitment}.Bytes()
	if err := merkle.VerifyInclusion(a.index, cp.Size, merkle.LeafHash(entry[:]), got.Path, cp.Root); err != nil {
		return err
	}
	if got.Index != a.index || got.Commitment != a.commitment || got.State != "final" || got.Anchor == nil || log.roots[cp.Size] != cp.Root {
		return fmt.Errorf("the public proof is another entry's, or not final: %+v", got)
	}
	return nil
}

// fetchReceipt reads and decodes a document's receipt.
func (s *server) fetchReceipt(ctx context.Context, a acknowledged) (receipt.Receipt, error) {
	status, body, err := s.d.get(ctx, s.url+"/v1/documents/"+a.id+"/receipt", s.d.token)
	if err != nil {
		return receipt.Receipt{}, err
	}
	if status != http.StatusOK {
		return receipt.Receipt{}, fmt.Errorf("receipt: %d %s", status, body)
	}
	return receipt.Decode(body)
}

// verify is what "calpe verify" does with a receipt, offline.
func (d *deployment) verify(a acknowledged, r receipt.Receipt, chain *headers.Chain) error {
	report := receipt.Verify(receipt.Input{Digest: a.digest, Receipt: r, Headers: chain, Identity: &d.identity, Depth: testDepth})
	certified := receipt.NotAsked
	if a.kind == certifiedKind {
		certified = receipt.Holds
	}
	if report.Existed.Status != receipt.Holds || report.InLog.Status != receipt.Holds || report.Certified.Status != certified {
		text, _ := report.MarshalJSON()
		return fmt.Errorf("the receipt doesn't verify: %s", text)
	}
	return nil
}

func (s *server) checkDocument(a acknowledged, log published, chain *headers.Chain, take func(uint64, acknowledged)) error {
	ctx := s.d.t.Context()
	var got answer
	if err := s.d.getJSON(ctx, s.url+"/v1/documents/"+a.id, &got); err != nil {
		return err
	}
	if got.Index != a.index || got.Digest != a.digest || got.State != "final" || got.Acknowledgement.Note != a.note {
		return fmt.Errorf("the document has index %d, digest %v, state %s now", got.Index, got.Digest, got.State)
	}
	r, err := s.fetchReceipt(ctx, a)
	if err != nil {
		return err
	}
	if err := s.d.verify(a, r, chain); err != nil {
		return err
	}
	commitment := calpe.Commit(a.digest, r.Salt)
	entry := calpe.Entry{Index: a.index, Commitment: commitment}
	if _, err := receipt.VerifyAcknowledged(entry, []byte(a.note), a.path, s.d.identity); err != nil || r.Index != a.index {
		return fmt.Errorf("the receipt has index %d, another entry than was acknowledged: %w", r.Index, err)
	}
	if log.commitments[a.index] != commitment {
		return fmt.Errorf("the log holds %v, the receipt says %v (I2)", log.commitments[a.index], commitment)
	}
	if r.Certification != nil {
		take(r.Certification.Index, a)
	}
	if a.seed%10 == 0 || a.kind == largeKind {
		return s.checkContent(ctx, a)
	}
	return nil
}

// checkContent: the document comes back as it was (I1).
func (s *server) checkContent(ctx context.Context, a acknowledged) error {
	status, body, err := s.d.get(ctx, s.url+"/v1/documents/"+a.id+"/content", s.d.token)
	if err != nil {
		return err
	}
	if status != http.StatusOK || calpe.Digest(sha256.Sum256(body)) != a.digest {
		return fmt.Errorf("content: status %d, %d bytes of another digest, want %d", status, len(body), a.size)
	}
	return nil
}

// checkObjects: every row's object is there (I1) and gets its lock, and a sweep
// leaves nothing that no row names, but for documents whose rows are lost: they
// are under a lock that keeps them.
func (d *deployment) checkObjects(conn *pgx.Conn, rowsLost bool) {
	d.t.Helper()
	ctx := d.t.Context()
	eventually(d.t, "documents are locked", func(ctx context.Context) error {
		var unlocked int
		err := conn.QueryRow(ctx, "SELECT count(*) FROM document WHERE retained_at IS NULL").Scan(&unlocked)
		if err == nil && unlocked > 0 {
			err = fmt.Errorf("%d documents are not locked", unlocked)
		}
		return err
	})
	if err := d.sweep(); err != nil && !rowsLost {
		d.t.Errorf("sweep: %v", err)
	}
	rows, err := conn.Query(ctx, "SELECT object FROM document")
	if err != nil {
		d.t.Fatal(err)
	}
	named, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.t.Fatal(err)
	}
	objects := d.documentObjects()
	for _, name := range named {
		if !objects[name] {
			d.t.Errorf("object %s of a document is not there (I1)", name)
		}
		delete(objects, name)
	}
	for name := range objects {
		if !rowsLost || !d.isLocked(name) {
			d.t.Errorf("object %s, which no row names, is left after a sweep", name)
		}
	}
	if n := d.unfinishedUploads(); n > 0 {
		d.t.Errorf("%d unfinished uploads are left after a sweep", n)
	}
}

// sweep does what the servers' own sweep does a day later.
func (d *deployment) sweep() error {
	d.t.Helper()
	sweeper, err := intake.NewSweeper(intake.SweeperConfig{
		Objects: d.store(), Rows: d.rows(), MaxAge: 24 * time.Hour,
		Now: func() time.Time { return time.Now().Add(25 * time.Hour) },
	})
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = sweeper.Step(d.t.Context())
	return err
}
