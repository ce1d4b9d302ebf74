// The perceptron in plain Go, its pool, and the accelerator that it may stand behind.
package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	features = 64
	hidden   = 256
	outputs  = 10
)

// Weights are shared by all instances of the model; they are only read.
type Weights struct {
	hidden [features][hidden]float32
	output [hidden][outputs]float32
}

// ReadWeights reads both matrices, row by row, as little-endian float32.
func ReadWeights(path string) (*Weights, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if wanted := 4 * (features*hidden + hidden*outputs); len(data) != wanted {
		return nil, fmt.Errorf("%s has %d bytes, not %d", path, len(data), wanted)
	}
	weights := new(Weights)
	next := func() float32 {
		value := math.Float32frombits(binary.LittleEndian.Uint32(data))
		data = data[4:]
		return value
	}
	for i := range weights.hidden {
		for j := range weights.hidden[i] {
			weights.hidden[i][j] = next()
		}
	}
	for i := range weights.output {
		for j := range weights.output[i] {
			weights.output[i][j] = next()
		}
	}
	return weights, nil
}

// Model is one instance: the weights and the room for its hidden layer.
type Model struct {
	weights *Weights
	layer   [hidden]float32
}

// Infer writes the answer to one row of `features` numbers to `answer`.
//
// Four features at a time: each element of the layer is loaded and stored a quarter as often.
func (m *Model) Infer(row []float32, answer *[outputs]float32) {
	layer := &m.layer
	*layer = [hidden]float32{}
	row = row[:features]
	for i := 0; i < features; i += 4 {
		a, b, c, d := row[i], row[i+1], row[i+2], row[i+3]
		wa, wb := &m.weights.hidden[i], &m.weights.hidden[i+1]
		wc, wd := &m.weights.hidden[i+2], &m.weights.hidden[i+3]
		for j := range layer {
			layer[j] += (a*wa[j] + b*wb[j]) + (c*wc[j] + d*wd[j])
		}
	}
	*answer = [outputs]float32{}
	for i, value := range layer {
		if value > 0 {
			weights := &m.weights.output[i]
			for j := range weights {
				answer[j] += value * weights[j]
			}
		}
	}
}

// Accelerator is what runs the model's calls: nothing, or a device that takes a while for each and
// serves one at a time.
type Accelerator struct {
	delay time.Duration
	lock  sync.Mutex
	calls *int64
}

// Call accounts for one call of the model, of however many rows.
func (a *Accelerator) Call() {
	atomic.AddInt64(a.calls, 1)
	if a.delay > 0 {
		a.lock.Lock()
		time.Sleep(a.delay)
		a.lock.Unlock()
	}
}

// CountTo makes the accelerator count its calls in a file, where the benchmark reads them.
func (a *Accelerator) CountTo(path string) error {
	if path == "" {
		a.calls = new(int64)
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	const access = syscall.PROT_READ | syscall.PROT_WRITE
	memory, err := syscall.Mmap(int(file.Fd()), 0, 8, access, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	a.calls = (*int64)(unsafe.Pointer(&memory[0]))
	return nil
}
