package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/s3"
)

type storageMetrics struct {
	database, objects               *prometheus.CounterVec
	databaseSeconds, objectsSeconds *prometheus.HistogramVec
}

func (m *Metrics) newStorage() {
	m.storage = storageMetrics{
		database:        m.counterVec("calpe_postgres_operations_total", "Statements, batches and connection attempts at PostgreSQL, by how they ended.", "operation", "outcome"),
		databaseSeconds: m.histogramVec("calpe_postgres_operation_duration_seconds", "How long operations at PostgreSQL took.", callSeconds(), "operation"),
		objects:         m.counterVec("calpe_s3_requests_total", "Requests to object storage, by how they ended.", "method", "outcome"),
		objectsSeconds:  m.histogramVec("calpe_s3_request_duration_seconds", "Time until the header of object storage's answer.", callSeconds(), "method"),
	}
	for _, operation := range postgres.Operations() {
		m.storage.databaseSeconds.WithLabelValues(string(operation))
		present(postgres.Outcomes(), func(outcome string) { m.storage.database.WithLabelValues(string(operation), outcome) })
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete} {
		m.storage.objectsSeconds.WithLabelValues(method)
		present(s3.Outcomes(), func(outcome string) { m.storage.objects.WithLabelValues(method, outcome) })
	}
}

// Postgres is for [postgres.Config.Observe].
func (m *Metrics) Postgres(operation postgres.Operation, outcome postgres.Outcome, took time.Duration) {
	m.storage.database.WithLabelValues(string(operation), string(outcome)).Inc()
	m.storage.databaseSeconds.WithLabelValues(string(operation)).Observe(took.Seconds())
}

// S3 is for [s3.Config.Observe].
func (m *Metrics) S3(method string, outcome s3.Outcome, took time.Duration) {
	m.storage.objects.WithLabelValues(method, string(outcome)).Inc()
	m.storage.objectsSeconds.WithLabelValues(method).Observe(took.Seconds())
}
