// The batched server: requests wait in a channel that one worker drains, when it is full or in time.
package main

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	maxBatchSize = 64
	batchWindow  = 5 * time.Millisecond
	queueLength  = 4096
)

// BatchRequest is one row that waits for its batch.
type BatchRequest struct {
	features []float32
	answer   [outputs]float32
	done     chan struct{}
}

// BatchedServer answers by batches of at most maxBatchSize rows, gathered for up to batchWindow.
type BatchedServer struct {
	models      *sync.Pool
	accelerator *Accelerator
	metrics     *Metrics
	queue       chan *BatchRequest
	requests    sync.Pool
}

// NewBatchedServer starts its worker, too.
func NewBatchedServer(models *sync.Pool, accelerator *Accelerator, metrics *Metrics) *BatchedServer {
	server := &BatchedServer{
		models:      models,
		accelerator: accelerator,
		metrics:     metrics,
		queue:       make(chan *BatchRequest, queueLength),
	}
	server.requests.New = func() interface{} {
		return &BatchRequest{done: make(chan struct{}, 1)}
	}
	go server.batchWorker()
	return server
}

// Predict queues the row and waits for its answer.
func (s *BatchedServer) Predict(
	ctx context.Context, request *PredictRequest,
) (*PredictResponse, error) {
	started := time.Now()
	if err := check(request); err != nil {
		return nil, err
	}
	queued := s.requests.Get().(*BatchRequest)
	queued.features = request.Features
	select {
	case s.queue <- queued:
	case <-ctx.Done():
		s.requests.Put(queued)
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	select {
	case <-queued.done:
	case <-ctx.Done(): // the worker still has it, so it does not go back to the pool
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	response := &PredictResponse{Predictions: append([]float32(nil), queued.answer[:]...)}
	queued.features = nil
	s.requests.Put(queued)
	s.metrics.answered(started)
	return response, nil
}

func (s *BatchedServer) batchWorker() {
	ticker := time.NewTicker(batchWindow)
	defer ticker.Stop()
	batch := make([]*BatchRequest, 0, maxBatchSize)
	for {
		select {
		case request := <-s.queue:
			batch = append(batch, request)
			if len(batch) >= maxBatchSize {
				s.processBatch(batch)
				batch = batch[:0]
			}
		case <-ticker.C:
			if len(batch) > 0 {
				s.processBatch(batch)
				batch = batch[:0]
			}
		}
	}
}

func (s *BatchedServer) processBatch(batch []*BatchRequest) {
	model := s.models.Get().(*Model)
	s.accelerator.Call()
	for _, request := range batch {
		model.Infer(request.features, &request.answer)
	}
	s.models.Put(model)
	s.metrics.batches.Observe(float64(len(batch)))
	for _, request := range batch {
		request.done <- struct{}{}
	}
}

func check(request *PredictRequest) error {
	if len(request.Features) != features {
		return status.Errorf(
			codes.InvalidArgument, "expected %d features, got %d", features, len(request.Features),
		)
	}
	return nil
}
