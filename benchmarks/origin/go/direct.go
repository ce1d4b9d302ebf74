// The direct server: each request takes an instance of the model from the pool and calls it.
package main

import (
	"context"
	"sync"
	"time"
)

// DirectServer calls the model once for each request.
type DirectServer struct {
	models      *sync.Pool
	accelerator *Accelerator
	metrics     *Metrics
}

// Predict calls the model with one row.
func (s *DirectServer) Predict(
	_ context.Context, request *PredictRequest,
) (*PredictResponse, error) {
	started := time.Now()
	if err := check(request); err != nil {
		return nil, err
	}
	model := s.models.Get().(*Model)
	defer s.models.Put(model)
	s.accelerator.Call()
	var answer [outputs]float32
	model.Infer(request.Features, &answer)
	s.metrics.answered(started)
	return &PredictResponse{Predictions: answer[:]}, nil
}
