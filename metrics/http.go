package metrics

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/calpe/calpe/api"
)

// Listener tells the listeners apart.
type Listener string

// The listeners that serve others than the operator.
const (
	APIListener      Listener = "api"
	CalendarListener Listener = "calendar"
)

type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func (m *Metrics) newHTTP() {
	m.http = httpMetrics{
		requests: m.counterVec("calpe_http_requests_total", "Requests that have their answer, by route pattern and class of status.", "listener", "method", "route", "class"),
		seconds: m.histogramVec("calpe_http_request_duration_seconds", "Time from a request's header to the end of its answer. Event streams, which last, are left out.",
			requestSeconds(), "listener", "route"),
	}
}

// HTTP is for [api.Config.Observe] and [api.CalendarConfig.Observe].
func (m *Metrics) HTTP(listener Listener) func(api.Answered) {
	return func(a api.Answered) {
		m.http.requests.WithLabelValues(string(listener), a.Method, a.Route, statusClass(a.Status)).Inc()
		if !strings.HasSuffix(a.Route, "/events") {
			m.http.seconds.WithLabelValues(string(listener), a.Route).Observe(a.Took.Seconds())
		}
	}
}

// statusClass is "2xx" and so on, or "none" of what was broken off.
func statusClass(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}
