// Package faucet gives away the coins that a development node mines. It has no
// state: its key follows from the password of the node's RPC user, and its
// coins are found in the chain.
package faucet

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"

	"github.com/btcsuite/btcd/address/v2"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"
	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
)

// Sizes, in virtual bytes, of a transaction with P2WPKH inputs: facts of the
// encoding (BIP 141, BIP 143), rounded up.
const (
	vbytesBase   = 11
	vbytesInput  = 68
	vbytesOutput = 43 // of any standard kind
)

const (
	feeRate   = 2   // sat/vB; btcd relays from 1
	dust      = 546 // of the kind of output that needs most
	maxInputs = 200
	maturity  = 100 // a coinbase can be spent in the 100th block after its own, or later
)

// Key is the faucet's private key at the node whose RPC password is given:
// whoever may call the node may spend the faucet's coins.
func Key(password string) *btcec.PrivateKey {
	mac := hmac.New(sha256.New, []byte(password))
	mac.Write([]byte("calpe devstack faucet"))
	key, _ := btcec.PrivKeyFromBytes(mac.Sum(nil))
	return key
}

// Params are those of a network with chains of one's own.
func Params(network string) (*chaincfg.Params, error) {
	switch network {
	case "regtest":
		return &chaincfg.RegressionNetParams, nil
	case "simnet":
		return &chaincfg.SimNetParams, nil
	}
	return nil, fmt.Errorf("network %q: the faucet works on regtest and simnet only", network)
}

// Address is where the faucet's node must send its block rewards (P2WPKH).
func Address(password, network string) (string, error) {
	params, err := Params(network)
	if err != nil {
		return "", err
	}
	addr, err := keyAddress(Key(password), params)
	if err != nil {
		return "", err
	}
	return addr.EncodeAddress(), nil
}

func keyAddress(key *btcec.PrivateKey, params *chaincfg.Params) (address.Address, error) {
	return address.NewAddressWitnessPubKeyHash(address.Hash160(key.PubKey().SerializeCompressed()), params)
}

// Funding is an output that pays what was asked for.
type Funding struct {
	TxID  string `json:"txid"` // as Bitcoin shows it
	Vout  uint32 `json:"vout"`
	Value int64  `json:"value"` // satoshi
}

// Faucet pays from the coins of one node's miner. Two at once at one node may
// choose the same coin, and then one of them fails.
type Faucet struct {
	rpc    *bitcoin.Client
	key    *btcec.PrivateKey
	params *chaincfg.Params
	script []byte // pays to the faucet
}

// New connects to the node at http://USER:PASSWORD@HOST:PORT.
func New(ctx context.Context, rawURL string) (*Faucet, error) {
	rpc, err := bitcoin.NewClient(rawURL)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("the node's URL can't be parsed")
	}
	password, _ := u.User.Password()
	network, _, err := rpc.Chain(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the node for its network: %w", err)
	}
	f := &Faucet{rpc: rpc, key: Key(password)}
	if f.params, err = Params(network); err != nil {
		return nil, err
	}
	addr, err := keyAddress(f.key, f.params)
	if err != nil {
		return nil, err
	}
	f.script, err = txscript.PayToAddrScript(addr)
	return f, err
}

// Fund pays value satoshi to an address with an ordinary signed transaction,
// and mines a block that contains it.
func (f *Faucet) Fund(ctx context.Context, to string, value int64) (Funding, error) {
	script, err := f.payTo(to)
	if err != nil {
		return Funding{}, err
	}
	if value < dust || value > 21e14 {
		return Funding{}, fmt.Errorf("%d satoshi: must be from %d to all there are", value, dust)
	}
	coins, err := f.coins(ctx, value)
	if err != nil {
		return Funding{}, err
	}
	tx, err := f.sign(coins, wire.NewTxOut(value, script))
	if err != nil {
		return Funding{}, err
	}
	txid, err := f.rpc.Send(ctx, tx)
	if err != nil {
		return Funding{}, fmt.Errorf("send: %w", err)
	}
	if _, err := f.rpc.Mine(ctx, 1); err != nil {
		return Funding{}, fmt.Errorf("mine the payment: %w", err)
	}
	mined, err := f.rpc.Unspent(ctx, wire.OutPoint{Hash: txid})
	if err != nil {
		return Funding{}, err
	}
	if !mined {
		return Funding{}, fmt.Errorf("the new block doesn't contain payment %s", txid)
	}
	return Funding{TxID: txid.String(), Value: value}, nil
}

func (f *Faucet) payTo(to string) ([]byte, error) {
	addr, err := address.DecodeAddress(to, f.params)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", to, err)
	}
	if !addr.IsForNet(f.params) {
		return nil, fmt.Errorf("address %q is not of %s", to, f.params.Name)
	}
	return txscript.PayToAddrScript(addr)
}

type coin struct {
	out   wire.OutPoint
	value int64
}

// fee is for a transaction with n inputs, a payment and change.
func fee(n int) int64 { return feeRate * int64(vbytesBase+n*vbytesInput+2*vbytesOutput) }

func total(coins []coin) (sum int64) {
	for _, c := range coins {
		sum += c.value
	}
	return sum
}

// coins collects spendable outputs, newest first, until they pay for value and
// the fee.
func (f *Faucet) coins(ctx context.Context, value int64) ([]coin, error) {
	_, tip, err := f.rpc.Chain(ctx)
	if err != nil {
		return nil, err
	}
	var found []coin
	for height := tip.Height; height > 0; height-- {
		more, err := f.coinsAt(ctx, height, tip.Height)
		if err != nil {
			return nil, fmt.Errorf("look for coins at height %d: %w", height, err)
		}
		found = append(found, more...)
		if total(found) >= value+fee(len(found)) {
			return found, nil
		}
		if len(found) > maxInputs {
			break
		}
	}
	return nil, fmt.Errorf("the faucet has %d mature coins of together %d satoshi, too few to pay %d; mine more blocks, or start the node with the faucet's miner address", len(found), total(found), value)
}

func (f *Faucet) coinsAt(ctx context.Context, height, tip int64) ([]coin, error) {
	hash, err := f.rpc.BlockHash(ctx, height)
	if err != nil {
		return nil, err
	}
	block, err := f.rpc.Block(ctx, hash)
	if err != nil {
		return nil, err
	}
	var found []coin
	for i, tx := range block.Transactions {
		if i == 0 && tip+1-height < maturity {
			continue
		}
		for vout, out := range tx.TxOut {
			if string(out.PkScript) != string(f.script) {
				continue
			}
			at := wire.OutPoint{Hash: tx.TxHash(), Index: uint32(vout)}
			unspent, err := f.rpc.Unspent(ctx, at)
			if err != nil {
				return nil, err
			}
			if unspent {
				found = append(found, coin{at, out.Value})
			}
		}
	}
	return found, nil
}

// sign makes the transaction: output 0 the payment, output 1 the change unless
// that were dust. It runs the script engine on every input.
func (f *Faucet) sign(coins []coin, payment *wire.TxOut) (*wire.MsgTx, error) {
	tx := wire.NewMsgTx(2)
	prev := txscript.NewMultiPrevOutFetcher(nil)
	for _, c := range coins {
		tx.AddTxIn(wire.NewTxIn(&c.out, nil, nil))
		prev.AddPrevOut(c.out, wire.NewTxOut(c.value, f.script))
	}
	tx.AddTxOut(payment)
	if change := total(coins) - payment.Value - fee(len(coins)); change >= dust {
		tx.AddTxOut(wire.NewTxOut(change, f.script))
	}
	hashes := txscript.NewTxSigHashes(tx, prev)
	for i, c := range coins {
		witness, err := txscript.WitnessSignature(tx, hashes, i, c.value, f.script, txscript.SigHashAll, f.key, true)
		if err != nil {
			return nil, fmt.Errorf("sign input %d: %w", i, err)
		}
		tx.TxIn[i].Witness = witness
	}
	for i, c := range coins {
		engine, err := txscript.NewEngine(f.script, tx, i, txscript.StandardVerifyFlags, nil, hashes, c.value, prev)
		if err != nil {
			return nil, fmt.Errorf("check input %d: %w", i, err)
		}
		if err := engine.Execute(); err != nil {
			return nil, fmt.Errorf("check input %d: %w", i, err)
		}
	}
	return tx, nil
}
