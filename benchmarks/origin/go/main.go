// The Go inference server of the write-up: gRPC, pools, a batch channel with a ticker, Prometheus.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
)

// Metrics are those of a usual service: how many, how long, and how large the batches.
type Metrics struct {
	registry *prometheus.Registry
	requests prometheus.Counter
	seconds  prometheus.Histogram
	batches  prometheus.Histogram
}

// NewMetrics registers them.
func NewMetrics() *Metrics {
	metrics := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "inference_requests_total", Help: "Requests answered.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "inference_request_seconds",
			Help:    "Time from a request's arrival to its answer.",
			Buckets: prometheus.ExponentialBuckets(1e-5, 2, 18),
		}),
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "inference_batch_size",
			Help:    "Rows of each batch.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 7),
		}),
	}
	metrics.registry.MustRegister(metrics.requests, metrics.seconds, metrics.batches)
	return metrics
}

func (m *Metrics) answered(started time.Time) {
	m.requests.Inc()
	m.seconds.Observe(time.Since(started).Seconds())
}

// endWithParent asks the kernel to end this process when whoever started it ends.
func endWithParent() {
	const setParentDeathSignal = 1 // PR_SET_PDEATHSIG of <sys/prctl.h>
	syscall.RawSyscall(syscall.SYS_PRCTL, setParentDeathSignal, uintptr(syscall.SIGKILL), 0)
}

func listen() (net.Listener, int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return listener, listener.Addr().(*net.TCPAddr).Port
}

// timeModel prints what one row costs, for the write-up of the figures.
func timeModel(model *Model) {
	const rows = 100000
	row := make([]float32, features)
	for i := range row {
		row[i] = float32(i%7) - 3
	}
	var answer [outputs]float32
	started := time.Now()
	for i := 0; i < rows; i++ {
		model.Infer(row, &answer)
	}
	seconds := time.Since(started).Seconds()
	json.NewEncoder(os.Stdout).Encode(map[string]float64{"row_us": seconds / rows * 1e6})
}

func main() {
	weightsFile := flag.String("weights", "", "file with both matrices")
	kind := flag.String("kind", "direct", "direct or batched")
	delay := flag.Duration("delay", 0, "time of each call of the model, on one accelerator")
	calls := flag.String("calls", "", "file of eight bytes in which calls of the model are counted")
	onlyTime := flag.Bool("time", false, "print the microseconds of one row and end")
	flag.Parse()
	endWithParent()
	weights, err := ReadWeights(*weightsFile)
	if err != nil {
		log.Fatal(err)
	}
	if *onlyTime {
		timeModel(&Model{weights: weights})
		return
	}
	accelerator := &Accelerator{delay: *delay}
	if err := accelerator.CountTo(*calls); err != nil {
		log.Fatal(err)
	}
	models := &sync.Pool{New: func() interface{} { return &Model{weights: weights} }}
	metrics := NewMetrics()
	var service InferenceServer
	switch *kind {
	case "direct":
		service = &DirectServer{models: models, accelerator: accelerator, metrics: metrics}
	case "batched":
		service = NewBatchedServer(models, accelerator, metrics)
	default:
		log.Fatalf("-kind must be direct or batched, got %q", *kind)
	}
	scraped, metricsPort := listen()
	http.Handle("/metrics", promhttp.HandlerFor(metrics.registry, promhttp.HandlerOpts{}))
	go func() { log.Fatal(http.Serve(scraped, nil)) }()
	listener, port := listen()
	server := grpc.NewServer()
	server.RegisterService(&inferenceService, service)
	fmt.Printf("{\"port\": %d, \"metrics\": %d}\n", port, metricsPort)
	log.Fatal(server.Serve(listener))
}
