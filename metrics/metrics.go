// Package metrics is what an operator's Prometheus sees of a server: counters and
// histograms that the parts' hooks fill, and gauges that are read when they are
// asked for. docs/metrics.md lists each with what to do about it.
//
// It has a registry of its own. Labels have few values, which are words of ours:
// none holds a name, an address, a digest, a token or anything else from outside.
package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/intake"
)

// Metrics of one server. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	bitcoin  bitcoinMetrics
	storage  storageMetrics
	intake   intakeMetrics
	http     httpMetrics
	leader   *prometheus.GaugeVec
	anchors  atomic.Bool // this server leads "anchor"
	signed   prometheus.Counter
	unsigned *prometheus.CounterVec
}

// New makes the metrics that are counted as things happen.
func New(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.gaugeVec("calpe_build_info", "The version that runs; always 1.", "version").WithLabelValues(version).Set(1)
	m.leader = m.gaugeVec("calpe_leader", "1 while this server leads the role.", "role")
	m.leader.WithLabelValues("batch")
	m.leader.WithLabelValues(anchorRole)
	m.newBitcoin()
	m.newStorage()
	m.newIntake()
	m.newHTTP()
	m.newSigner()
	return m
}

const anchorRole = "anchor"

// Sources is where the gauges come from that are read at each scrape.
type Sources struct {
	// State reads the database. It must respect ctx.
	State  func(ctx context.Context) (State, error)
	Engine func() anchor.Status      // nil: the log has no coins, and nothing is said of them
	Nodes  func() anchor.NodesStatus // nil: there is no node
	Intake func() intake.Status
	Now    func() time.Time // default time.Now
	Logger *slog.Logger
}

// Watch adds the gauges. It is called once, before the first scrape.
func (m *Metrics) Watch(s Sources) error {
	if s.State == nil || s.Intake == nil || s.Logger == nil {
		return errors.New("metrics: a source is missing")
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	return m.registry.Register(newCollector(s, m.anchors.Load))
}

// Limits of a scrape.
const (
	scrapeTime   = 8 * time.Second // below the 10 s that Prometheus waits by default
	maxScrapes   = 3               // at a time
	databaseTime = 5 * time.Second
)

// Handler answers scrapes, in the text formats of Prometheus.
func (m *Metrics) Handler(logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeTime,
	}))
	return mux
}

// Lead notes that this server leads the role ("batch" or "anchor"), until the
// function that it gives is called.
func (m *Metrics) Lead(role string) (end func()) {
	set := func(leads bool) {
		m.leader.WithLabelValues(role).Set(truth(leads))
		if role == anchorRole {
			m.anchors.Store(leads)
		}
	}
	set(true)
	return func() { set(false) }
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) histogramVec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

// Buckets of durations, in seconds: of a call to a server nearby, and of what may
// take minutes.
func callSeconds() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

func requestSeconds() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}
}

// entryCounts are buckets of numbers of entries.
func entryCounts() []float64 {
	return []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144}
}

// present makes a series of each word exist before anything is counted: an alarm
// that looks for an increase must see the 0.
func present[W ~string](words []W, labelled func(word string)) {
	for _, w := range words {
		labelled(string(w))
	}
}
