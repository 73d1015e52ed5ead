package anchor_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
)

// fakeNode is a Bitcoin node in memory: a best chain, its unspent outputs, and
// a mempool. It checks what a node checks of a transaction, and fails on demand.
type fakeNode struct {
	t  *testing.T
	mu sync.Mutex

	chain   []*wire.MsgBlock // best chain; the index is the height
	byHash  map[calpe.BlockHash]*wire.MsgBlock
	mempool map[calpe.BlockHash]*wire.MsgTx
	extra   uint64 // makes coinbases differ

	lag     int            // newest blocks that the node doesn't know yet
	network calpe.Network  // that it says it is on
	rate    ledger.FeeRate // estimate; 0 is none
	minRate ledger.FeeRate // below it nothing is relayed; 0 is 1 sat/vB
	raise   ledger.FeeRate // incremental relay fee; 0 is 1 sat/vB
	answer  *ledger.Answer // to every Send, instead of its own
	// refuse gives an answer to what the node would take otherwise.
	refuse   func(tx *wire.MsgTx) *ledger.Answer
	coinbase []byte         // script that coinbases pay to
	deny     calpe.Outpoint // an output that the node says is spent

	// fault decides over each call: an error before it is applied, after it, or none.
	fault func(method string) (apply bool, err error)
	// onSend sees every transaction before anything else happens to it.
	onSend func(raw []byte)
	sends  int

	outputs   map[wire.OutPoint]chainOutput
	outputsAt *wire.MsgBlock
}

func (n *fakeNode) setFault(fault func(string) (bool, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = fault
}

func newFakeNode(t *testing.T) *fakeNode {
	genesis := chaincfg.RegressionNetParams.GenesisBlock
	n := &fakeNode{
		t: t, byHash: map[calpe.BlockHash]*wire.MsgBlock{}, mempool: map[calpe.BlockHash]*wire.MsgTx{},
		chain: []*wire.MsgBlock{genesis}, network: calpe.Regtest, coinbase: []byte{txscript.OP_TRUE},
	}
	n.byHash[calpe.BlockHash(genesis.BlockHash())] = genesis
	return n
}

// mine appends a block with the mempool, or with just these transactions.
func (n *fakeNode) mine(txs ...*wire.MsgTx) *wire.MsgBlock {
	n.mu.Lock()
	defer n.mu.Unlock()
	if txs == nil {
		txs = n.candidates()
	}
	n.extra++
	coinbase := wire.NewMsgTx(1)
	script := binary.LittleEndian.AppendUint64([]byte{8}, n.extra)
	coinbase.AddTxIn(wire.NewTxIn(&wire.OutPoint{Index: 0xffffffff}, script, nil))
	coinbase.AddTxOut(wire.NewTxOut(50e8, n.coinbase))
	tip := n.chain[len(n.chain)-1]
	block := wire.NewMsgBlock(&wire.BlockHeader{
		Version: 4, PrevBlock: tip.BlockHash(), Timestamp: tip.Header.Timestamp.Add(10 * time.Minute), Bits: 0x207fffff,
	})
	block.Transactions = append([]*wire.MsgTx{coinbase}, txs...)
	root, err := bitcoin.MerkleRoot(bitcoin.TxIDs(block))
	if err != nil {
		n.t.Fatalf("mine: %v", err)
	}
	block.Header.MerkleRoot = chainhash.Hash(root)
	n.chain = append(n.chain, block)
	n.byHash[calpe.BlockHash(block.BlockHash())] = block
	for _, tx := range txs {
		delete(n.mempool, calpe.BlockHash(tx.TxHash()))
	}
	kept := n.candidates() // what a block spends leaves the mempool, with what conflicts
	n.mempool = map[calpe.BlockHash]*wire.MsgTx{}
	for _, tx := range kept {
		n.mempool[calpe.BlockHash(tx.TxHash())] = tx
	}
	return block
}

// candidates are the transactions of the mempool that a block may hold, in an
// order in which it may: what a lagging node took can be spent already.
func (n *fakeNode) candidates() (txs []*wire.MsgTx) {
	ids := slices.SortedFunc(maps.Keys(n.mempool), func(a, b calpe.BlockHash) int { return bytes.Compare(a[:], b[:]) })
	unspent := maps.Clone(n.unspentIn(n.chain))
	for progress := true; progress; {
		progress = false
		ids = slices.DeleteFunc(ids, func(id calpe.BlockHash) bool {
			tx := n.mempool[id]
			if slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool {
				_, ok := unspent[in.PreviousOutPoint]
				return !ok && in.PreviousOutPoint.Index != fromNowhere
			}) {
				return false
			}
			for _, in := range tx.TxIn {
				delete(unspent, in.PreviousOutPoint)
			}
			for vout, out := range tx.TxOut {
				unspent[wire.OutPoint{Hash: tx.TxHash(), Index: uint32(vout)}] = chainOutput{TxOut: out}
			}
			txs, progress = append(txs, tx), true
			return true
		})
	}
	return txs
}

// fromNowhere is the output that payments spend, of transactions that there never were.
const fromNowhere = 777

// empty mines n blocks without any transaction.
func (n *fakeNode) empty(count int) {
	for range count {
		n.mine([]*wire.MsgTx{}...)
	}
}

// cut takes the newest blocks off the best chain. Their transactions go back to
// the mempool if keep says so.
func (n *fakeNode) cut(count int, keep bool) []*wire.MsgBlock {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := len(n.chain) - count
	gone := slices.Clone(n.chain[at:])
	n.chain = n.chain[:at]
	n.mempool = map[calpe.BlockHash]*wire.MsgTx{}
	for _, b := range gone {
		for _, tx := range b.Transactions[1:] {
			if keep {
				n.mempool[calpe.BlockHash(tx.TxHash())] = tx
			}
		}
	}
	return gone
}

// switchTo makes former blocks the end of the best chain again.
func (n *fakeNode) switchTo(fork int, blocks []*wire.MsgBlock) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.chain = append(n.chain[:fork+1:fork+1], blocks...)
	n.mempool = map[calpe.BlockHash]*wire.MsgTx{}
}

func (n *fakeNode) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mempool = map[calpe.BlockHash]*wire.MsgTx{}
}

func (n *fakeNode) forgetAllBut(id calpe.BlockHash) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.mempool, func(other calpe.BlockHash, _ *wire.MsgTx) bool { return other != id })
}

func (n *fakeNode) pool() map[calpe.BlockHash]*wire.MsgTx {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mempool
}

func (n *fakeNode) height() int { return len(n.chain) - 1 }

// pay mines a transaction from nowhere with that output.
func (n *fakeNode) pay(script []byte, value int64) calpe.Outpoint {
	n.extra++
	tx := wire.NewMsgTx(2)
	prev := chainhash.DoubleHashH(binary.LittleEndian.AppendUint64(nil, n.extra))
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: prev, Index: fromNowhere}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(12_345, []byte{txscript.OP_TRUE}))
	tx.AddTxOut(wire.NewTxOut(value, script))
	n.mine(tx)
	return calpe.Outpoint{TxID: calpe.BlockHash(tx.TxHash()), Vout: 1}
}

// transaction finds one in any block that there ever was.
func (n *fakeNode) transaction(id calpe.BlockHash) *wire.MsgTx {
	for _, b := range n.byHash {
		for _, tx := range b.Transactions {
			if calpe.BlockHash(tx.TxHash()) == id {
				return tx
			}
		}
	}
	n.t.Fatalf("no block ever held %v", id)
	return nil
}

type chainOutput struct {
	*wire.TxOut
	height int
}

func (n *fakeNode) visible() []*wire.MsgBlock { return n.chain[:max(1, len(n.chain)-n.lag)] }

func (n *fakeNode) unspent() map[wire.OutPoint]chainOutput { return n.unspentIn(n.visible()) }

// unspentIn is computed once for each tip.
func (n *fakeNode) unspentIn(chain []*wire.MsgBlock) map[wire.OutPoint]chainOutput {
	tip := chain[len(chain)-1]
	if n.outputs != nil && n.outputsAt == tip {
		return n.outputs
	}
	outs, from := map[wire.OutPoint]chainOutput{}, 0
	if n.outputsAt != nil && tip.Header.PrevBlock == n.outputsAt.BlockHash() {
		outs, from = n.outputs, len(chain)-1
	}
	for height := from; height < len(chain); height++ {
		for _, tx := range chain[height].Transactions {
			for _, in := range tx.TxIn {
				delete(outs, in.PreviousOutPoint)
			}
			for i, out := range tx.TxOut {
				outs[wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)}] = chainOutput{out, height}
			}
		}
	}
	n.outputs, n.outputsAt = outs, tip
	return outs
}

// call runs apply under the fault of the method.
func (n *fakeNode) call(ctx context.Context, method string, apply func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	fault := n.fault
	n.mu.Unlock()
	applied, err := true, error(nil)
	if fault != nil {
		applied, err = fault(method)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if applied {
		apply()
	}
	if err != nil {
		return fmt.Errorf("fake node: %s: %w", method, err)
	}
	return nil
}

func (n *fakeNode) CheckNetwork(ctx context.Context, network calpe.Network) (err error) {
	if errCall := n.call(ctx, "check", func() {
		if n.network != network {
			err = bitcoin.ErrWrongNetwork
		}
	}); errCall != nil {
		return errCall
	}
	return err
}

func (n *fakeNode) BestBlock(ctx context.Context) (height uint32, hash calpe.BlockHash, err error) {
	err = n.call(ctx, "best", func() {
		chain := n.visible()
		height, hash = uint32(len(chain)-1), calpe.BlockHash(chain[len(chain)-1].BlockHash())
	})
	return height, hash, err
}

func (n *fakeNode) BlockHash(ctx context.Context, height uint32) (hash calpe.BlockHash, err error) {
	var refused error
	err = n.call(ctx, "hash", func() {
		if chain := n.visible(); int(height) < len(chain) {
			hash = calpe.BlockHash(chain[height].BlockHash())
			return
		}
		refused = &bitcoin.RPCError{Method: "getblockhash", Code: -8, Message: "Block height out of range"}
	})
	if err == nil {
		err = refused
	}
	return hash, err
}

func (n *fakeNode) Header(ctx context.Context, hash calpe.BlockHash) (header [calpe.HeaderSize]byte, err error) {
	err = n.call(ctx, "header", func() {
		var b bytes.Buffer
		if err := n.byHash[hash].Header.Serialize(&b); err == nil {
			copy(header[:], b.Bytes())
		}
	})
	return header, err
}

func (n *fakeNode) Block(ctx context.Context, hash calpe.BlockHash) (block *wire.MsgBlock, err error) {
	err = n.call(ctx, "block", func() { block = n.byHash[hash] })
	return block, err
}

func (n *fakeNode) TxOut(ctx context.Context, o calpe.Outpoint) (out bitcoin.TxOut, ok bool, err error) {
	err = n.call(ctx, "txout", func() {
		chain := n.visible()
		var found chainOutput
		if found, ok = n.unspent()[wire.OutPoint{Hash: chainhash.Hash(o.TxID), Index: o.Vout}]; ok && o != n.deny {
			out = bitcoin.TxOut{
				Output:    ledger.Output{Value: found.Value, Script: found.PkScript},
				BestBlock: calpe.BlockHash(chain[len(chain)-1].BlockHash()), Confirmations: uint32(len(chain) - found.height),
			}
		}
	})
	return out, ok && err == nil && o != n.deny, err
}

func (n *fakeNode) FeeRate(ctx context.Context, _ int) (rate ledger.FeeRate, ok bool, err error) {
	err = n.call(ctx, "fee", func() { rate, ok = n.rate, n.rate != 0 })
	return rate, ok, err
}

func (n *fakeNode) Send(ctx context.Context, raw []byte) (answer ledger.Answer, err error) {
	if n.onSend != nil {
		n.onSend(raw)
	}
	err = n.call(ctx, "send", func() { n.sends++; answer = n.take(raw) })
	if err != nil {
		return ledger.Answer{}, err
	}
	return answer, nil
}

func (n *fakeNode) take(raw []byte) ledger.Answer {
	if n.answer != nil {
		return *n.answer
	}
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return ledger.Answer{Kind: ledger.Policy, Text: err.Error()}
	}
	unspent := n.unspent()
	id := tx.TxHash()
	if _, ok := n.mempool[calpe.BlockHash(id)]; ok {
		return ledger.Answer{Kind: ledger.AlreadyKnown, Text: "txn-already-in-mempool"}
	}
	if _, ok := unspent[wire.OutPoint{Hash: id, Index: 1}]; ok {
		return ledger.Answer{Kind: ledger.AlreadyMined, Text: "Transaction outputs already in utxo set"}
	}
	prev := txscript.NewMultiPrevOutFetcher(nil)
	for _, in := range tx.TxIn {
		out, ok := unspent[in.PreviousOutPoint]
		if !ok {
			return ledger.Answer{Kind: ledger.InputsMissing, Text: "bad-txns-inputs-missingorspent"}
		}
		prev.AddPrevOut(in.PreviousOutPoint, out.TxOut)
	}
	conflicts, refusal := n.replace(&tx)
	if refusal != nil {
		return *refusal
	}
	for i, in := range tx.TxIn {
		out := unspent[in.PreviousOutPoint]
		vm, err := txscript.NewEngine(out.PkScript, &tx, i, txscript.StandardVerifyFlags, nil, txscript.NewTxSigHashes(&tx, prev), out.Value, prev)
		if err == nil {
			err = vm.Execute()
		}
		if err != nil {
			return ledger.Answer{Kind: ledger.Policy, Text: "mandatory-script-verify-flag-failed: " + err.Error()}
		}
	}
	if n.refuse != nil {
		if answer := n.refuse(&tx); answer != nil {
			return *answer
		}
	}
	for _, other := range conflicts {
		delete(n.mempool, other)
	}
	n.mempool[calpe.BlockHash(id)] = &tx
	return ledger.Answer{Kind: ledger.Accepted}
}

// replace applies the rules of relay and of replacement to a transaction whose
// inputs are unspent, and gives what it replaces: signalled, dearer than all of
// it together by the incremental fee, and at a higher rate (BIP 125).
func (n *fakeNode) replace(tx *wire.MsgTx) (conflicts []calpe.BlockHash, refusal *ledger.Answer) {
	refuse := func(kind ledger.AnswerKind, text string) ([]calpe.BlockHash, *ledger.Answer) {
		return nil, &ledger.Answer{Kind: kind, Text: text}
	}
	fee, vsize := n.fee(tx), int64(weightOf(tx)+3)/4
	if least := cmp.Or(n.minRate, ledger.SatPerVB).Fee(int(vsize)); fee < least {
		return refuse(ledger.FeeTooLow, "min relay fee not met")
	}
	var replaced int64
	for id, other := range n.mempool {
		if !slices.ContainsFunc(other.TxIn, func(o *wire.TxIn) bool {
			return slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool { return in.PreviousOutPoint == o.PreviousOutPoint })
		}) {
			continue
		}
		if slices.ContainsFunc(other.TxIn, func(o *wire.TxIn) bool { return o.Sequence > 0xfffffffd }) {
			return refuse(ledger.Conflict, "txn-mempool-conflict")
		}
		if fee*int64(weightOf(other)) <= n.fee(other)*int64(weightOf(tx)) {
			return refuse(ledger.FeeTooLow, "insufficient fee, rejecting replacement: its rate is not higher")
		}
		replaced += n.fee(other)
		conflicts = append(conflicts, id)
	}
	if len(conflicts) > 0 && fee < replaced+cmp.Or(n.raise, ledger.SatPerVB).Fee(int(vsize)) {
		return refuse(ledger.FeeTooLow, "insufficient fee, rejecting replacement: not enough additional fees to relay")
	}
	return conflicts, nil
}

// fee of a transaction that is in the mempool or may get into it. Inputs that
// the node doesn't see, because it lags, count for nothing.
func (n *fakeNode) fee(tx *wire.MsgTx) (fee int64) {
	unspent := n.unspent()
	for _, in := range tx.TxIn {
		if out, ok := unspent[in.PreviousOutPoint]; ok {
			fee += out.Value
		} else if parent, ok := n.mempool[calpe.BlockHash(in.PreviousOutPoint.Hash)]; ok {
			fee += parent.TxOut[in.PreviousOutPoint.Index].Value
		}
	}
	for _, out := range tx.TxOut {
		fee -= out.Value
	}
	return max(0, fee)
}

func weightOf(tx *wire.MsgTx) int { return 3*tx.SerializeSizeStripped() + tx.SerializeSize() }
