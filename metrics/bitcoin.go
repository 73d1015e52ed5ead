package metrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/wallet"
)

// Node tells the two nodes apart.
type Node string

// The nodes.
const (
	FirstNode  Node = "first"
	SecondNode Node = "second"
)

type bitcoinMetrics struct {
	calls   *prometheus.HistogramVec
	errors  *prometheus.CounterVec
	reorgs  *prometheus.CounterVec
	deepest prometheus.Gauge
}

// The kinds of errors of a node.
const (
	nodeUnavailable  = "unavailable"
	nodeWarmingUp    = "warming-up"
	nodeUnauthorized = "unauthorized"
	nodeInvalid      = "invalid" // an answer that isn't one, or is too large, or of another network
	nodeRefused      = "refused" // an error that the node gives, of which some are ordinary answers
	cancelled        = "cancelled"
	other            = "other"
)

func (m *Metrics) newBitcoin() {
	m.bitcoin = bitcoinMetrics{
		calls:   m.histogramVec("calpe_bitcoin_call_duration_seconds", "How long calls to the Bitcoin nodes took.", callSeconds(), "node", "method"),
		errors:  m.counterVec("calpe_bitcoin_call_errors_total", "Calls to the Bitcoin nodes that failed.", "node", "kind"),
		reorgs:  m.counterVec("calpe_bitcoin_reorganisations_total", "Reorganisations that this server has followed, by the blocks that were taken back.", "depth"),
		deepest: m.gauge("calpe_bitcoin_reorganisation_depth_blocks", "Blocks that the last reorganisation took back; 0 before the first."),
	}
	for _, node := range []Node{FirstNode, SecondNode} {
		m.bitcoin.calls.WithLabelValues(string(node), "getblockcount")
		present([]string{nodeUnavailable, nodeWarmingUp, nodeUnauthorized, nodeInvalid, nodeRefused, cancelled, other},
			func(kind string) { m.bitcoin.errors.WithLabelValues(string(node), kind) })
	}
	present([]string{"1", "2", "3-5", "6+"}, func(depth string) { m.bitcoin.reorgs.WithLabelValues(depth) })
}

// BitcoinCall is for [bitcoin.Config.Observe].
func (m *Metrics) BitcoinCall(node Node) func(method string, took time.Duration, err error) {
	return func(method string, took time.Duration, err error) {
		m.bitcoin.calls.WithLabelValues(string(node), method).Observe(took.Seconds())
		if err != nil {
			m.bitcoin.errors.WithLabelValues(string(node), nodeErrorKind(err)).Inc()
		}
	}
}

func nodeErrorKind(err error) string {
	_, refused := errors.AsType[*bitcoin.RPCError](err)
	switch {
	case refused:
		return nodeRefused
	case errors.Is(err, context.Canceled):
		return cancelled
	case errors.Is(err, bitcoin.ErrWarmingUp):
		return nodeWarmingUp
	case errors.Is(err, bitcoin.ErrUnauthorized):
		return nodeUnauthorized
	case errors.Is(err, bitcoin.ErrTooLarge) || errors.Is(err, bitcoin.ErrInvalidBlock) || errors.Is(err, bitcoin.ErrWrongNetwork):
		return nodeInvalid
	case errors.Is(err, bitcoin.ErrUnavailable):
		return nodeUnavailable
	}
	return other
}

// Reorganised is for [anchor.Config.Reorganised].
func (m *Metrics) Reorganised(depth uint32) {
	word := "6+"
	switch {
	case depth == 1:
		word = "1"
	case depth == 2:
		word = "2"
	case depth < 6:
		word = "3-5"
	}
	m.bitcoin.reorgs.WithLabelValues(word).Inc()
	m.bitcoin.deepest.Set(float64(depth))
}

// The reasons for which the signer doesn't sign.
const (
	refusedPolicy  = "policy"
	refusedCap     = "cap"
	refusedBudget  = "budget"
	refusedHistory = "history"
	refusedChain   = "chain"
	refusedState   = "state"
)

func (m *Metrics) newSigner() {
	m.signed = m.counter("calpe_signer_signatures_total", "Anchor attempts that the signer has signed.")
	m.unsigned = m.counterVec("calpe_signer_refusals_total", "Anchor attempts that the signer hasn't signed, each time that it was asked.", "reason")
	present([]string{refusedPolicy, refusedCap, refusedBudget, refusedHistory, refusedChain, refusedState, other},
		func(reason string) { m.unsigned.WithLabelValues(reason) })
}

type countedSigner struct {
	anchor.Signer
	m *Metrics
}

// Signer counts what a signer signs and refuses.
func (m *Metrics) Signer(s anchor.Signer) anchor.Signer { return countedSigner{s, m} }

// Sign implements [anchor.Signer].
func (s countedSigner) Sign(ctx context.Context, unsigned []byte, inputs []ledger.Input) ([]byte, error) {
	raw, err := s.Signer.Sign(ctx, unsigned, inputs)
	switch {
	case err == nil:
		s.m.signed.Inc()
	case ctx.Err() == nil:
		s.m.unsigned.WithLabelValues(refusalReason(err)).Inc()
	}
	return raw, err
}

func refusalReason(err error) string {
	for _, r := range []struct {
		is     error
		reason string
	}{
		{signer.ErrBudget, refusedBudget}, {signer.ErrHistory, refusedHistory}, {signer.ErrChain, refusedChain}, {signer.ErrState, refusedState},
		{wallet.ErrCap, refusedCap}, {wallet.ErrPolicy, refusedPolicy},
	} {
		if errors.Is(err, r.is) {
			return r.reason
		}
	}
	return other
}
