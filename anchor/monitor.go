package anchor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// MonitoredNode is what a [Monitor] asks of the engine's node. *bitcoin.Client is one.
type MonitoredNode interface {
	Witness
	Header(ctx context.Context, hash calpe.BlockHash) ([calpe.HeaderSize]byte, error)
	FeeRate(ctx context.Context, blocks int) (ledger.FeeRate, bool, error)
}

// MonitorConfig of a [Monitor]. Zero values take the default in brackets.
type MonitorConfig struct {
	Node   MonitoredNode
	Second Witness // nil: there is none
	Target int     // blocks of which the estimate is asked [6]
	Depth  uint32  // the nodes must agree on blocks that are that deep [6]
	// Stale is the age of the newest block from which the node is said to lag. On
	// mainnet no block comes for 3 hours about once in 1,200 years. [3 hours]
	Stale time.Duration
	// Behind is how many blocks more the other node must have for one to be said to
	// lag. [3]
	Behind   uint32
	Interval time.Duration // between two looks [30 seconds]
	Now      func() time.Time
	Logger   *slog.Logger
}

// Monitor looks at the nodes, and tells once in the log when one begins or ceases
// to lag, to be down, or to disagree with the other. It changes nothing: every
// server may have one. Run and Look must not be called concurrently; Status may
// be called at any time.
type Monitor struct {
	cfg MonitorConfig
	// What was last said. Only Look uses them.
	down, lags, secondDown, secondLags, disagree bool

	mu     sync.Mutex
	status NodesStatus
}

// NodesStatus is what a [Monitor] saw last.
type NodesStatus struct {
	Time     time.Time      // of that look; zero before the first
	Err      error          // why the node couldn't be asked; what follows is older then
	Height   uint32         // of its newest block
	Tip      time.Time      // that the header of this block claims; zero: it isn't known
	Estimate ledger.FeeRate // 0: the node has none
	Lags     bool           // the tip is stale, or the second node has more blocks
	Second   *SecondStatus  // nil: there is no second node
}

// SecondStatus is what a [Monitor] saw last of the second node.
type SecondStatus struct {
	Err      error // why it couldn't be asked; what follows is older then
	Height   uint32
	Lags     bool // the first node has more blocks
	Disagree bool // it has another block where both are as deep as an anchor must be
}

// NewMonitor checks the configuration. It contacts nothing.
func NewMonitor(cfg MonitorConfig) (*Monitor, error) {
	if cfg.Node == nil {
		return nil, errors.New("monitor has no node")
	}
	cfg.Target, cfg.Depth, cfg.Behind = cmp.Or(cfg.Target, 6), cmp.Or(cfg.Depth, 6), cmp.Or(cfg.Behind, 3)
	cfg.Stale, cfg.Interval = cmp.Or(cfg.Stale, 3*time.Hour), cmp.Or(cfg.Interval, 30*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Stale < 0 || cfg.Interval < 0 {
		return nil, errors.New("monitor: Stale and Interval must be positive")
	}
	m := &Monitor{cfg: cfg}
	if cfg.Second != nil {
		m.status.Second = &SecondStatus{}
	}
	return m, nil
}

// Run looks at once and then every interval, until ctx is done. The error is nil.
func (m *Monitor) Run(ctx context.Context) error {
	ticker := time.NewTicker(m.cfg.Interval)
	defer ticker.Stop()
	for {
		m.Look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Status is what was seen last.
func (m *Monitor) Status() NodesStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	if s.Second != nil {
		second := *s.Second
		s.Second = &second
	}
	return s
}

// Look asks both nodes once, and tells what has changed.
func (m *Monitor) Look(ctx context.Context) {
	s := m.Status()
	s.Err = m.lookAtFirst(ctx, &s)
	if s.Second != nil {
		s.Second.Err = m.lookAtSecond(ctx, s.Err == nil, &s)
	}
	if ctx.Err() != nil { // the server ends, and no node is to blame
		return
	}
	s.Time = m.cfg.Now()
	s.Lags = s.Err == nil && m.lagging(s)
	m.tell(ctx, s)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = s
}

func (m *Monitor) lookAtFirst(ctx context.Context, s *NodesStatus) error {
	height, hash, err := m.cfg.Node.BestBlock(ctx)
	if err != nil {
		return fmt.Errorf("read the node's tip: %w", err)
	}
	header, err := m.cfg.Node.Header(ctx, hash)
	if err != nil {
		return fmt.Errorf("read the tip's header: %w", err)
	}
	estimate, _, err := m.cfg.Node.FeeRate(ctx, m.cfg.Target)
	if err != nil {
		return fmt.Errorf("estimate fee rate: %w", err)
	}
	s.Height, s.Tip, s.Estimate = height, ledger.Block{Header: header}.Time(), estimate
	return nil
}

// lookAtSecond asks the second node, and compares it with the first if that was
// asked just before.
func (m *Monitor) lookAtSecond(ctx context.Context, compare bool, s *NodesStatus) error {
	height, _, err := m.cfg.Second.BestBlock(ctx)
	if err != nil {
		return fmt.Errorf("read the second node's tip: %w", err)
	}
	s.Second.Height = height
	if !compare {
		return nil
	}
	s.Second.Lags = height+m.cfg.Behind <= s.Height
	common := min(height, s.Height)
	if common+1 < m.cfg.Depth {
		return nil
	}
	at := common + 1 - m.cfg.Depth
	second, err := m.cfg.Second.BlockHash(ctx, at)
	if err != nil {
		return fmt.Errorf("read hash of block %d of the second node: %w", at, err)
	}
	first, err := m.cfg.Node.BlockHash(ctx, at)
	if err != nil {
		return nil //nolint:nilerr // that is the first node's trouble, and the next look tells it
	}
	s.Second.Disagree = first != second
	return nil
}

// lagging tells a node that has stood still, or has fewer blocks than the second.
func (m *Monitor) lagging(s NodesStatus) bool {
	stale := m.cfg.Now().Sub(s.Tip) > m.cfg.Stale
	return stale || s.Second != nil && s.Second.Err == nil && s.Height+m.cfg.Behind <= s.Second.Height
}

// turned reports whether a state has changed, and notes it.
func turned(said *bool, now bool) bool {
	changed := *said != now
	*said = now
	return changed
}

func (m *Monitor) tell(ctx context.Context, s NodesStatus) {
	log := m.cfg.Logger
	if turned(&m.down, s.Err != nil) {
		if m.down {
			log.WarnContext(ctx, "bitcoin node can't be asked", slog.Any("error", s.Err))
		} else {
			log.InfoContext(ctx, "bitcoin node answers again", slog.Uint64("height", uint64(s.Height)))
		}
	}
	if s.Err == nil && turned(&m.lags, s.Lags) {
		if m.lags {
			log.ErrorContext(ctx, "bitcoin node lags behind the chain", slog.Uint64("height", uint64(s.Height)),
				slog.Duration("tip_age", m.cfg.Now().Sub(s.Tip).Round(time.Second)), slog.Uint64("second_height", uint64(s.secondHeight())))
		} else {
			log.InfoContext(ctx, "bitcoin node has caught up", slog.Uint64("height", uint64(s.Height)))
		}
	}
	if s.Second != nil {
		m.tellSecond(ctx, s, *s.Second)
	}
}

func (m *Monitor) tellSecond(ctx context.Context, s NodesStatus, second SecondStatus) {
	log := m.cfg.Logger
	if turned(&m.secondDown, second.Err != nil) {
		if m.secondDown {
			log.WarnContext(ctx, "second bitcoin node can't be asked: nothing becomes final", slog.Any("error", second.Err))
		} else {
			log.InfoContext(ctx, "second bitcoin node answers again", slog.Uint64("height", uint64(second.Height)))
		}
	}
	if second.Err != nil || s.Err != nil {
		return
	}
	if turned(&m.secondLags, second.Lags) {
		if m.secondLags {
			log.WarnContext(ctx, "second bitcoin node lags behind the first: nothing new becomes final",
				slog.Uint64("height", uint64(second.Height)), slog.Uint64("first_height", uint64(s.Height)))
		} else {
			log.InfoContext(ctx, "second bitcoin node has caught up", slog.Uint64("height", uint64(second.Height)))
		}
	}
	if turned(&m.disagree, second.Disagree) {
		if m.disagree {
			log.ErrorContext(ctx, "the two bitcoin nodes disagree: nothing becomes final",
				slog.Uint64("height", uint64(s.Height)), slog.Uint64("second_height", uint64(second.Height)))
		} else {
			log.InfoContext(ctx, "the two bitcoin nodes agree again", slog.Uint64("height", uint64(s.Height)))
		}
	}
}

// secondHeight is 0 without a second node.
func (s NodesStatus) secondHeight() uint32 {
	if s.Second == nil {
		return 0
	}
	return s.Second.Height
}
