// A client that is neither Python nor ours: grpc-go, asked line by line what to call.
//
// Each line of standard input is a JSON object; for each, the answers of its calls, which are all
// made at the same time, are written as one line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type question struct {
	Method       string            `json:"method"`
	Message      []byte            `json:"message"`
	Count        int               `json:"count"`
	Milliseconds int               `json:"milliseconds"`
	Gzip         bool              `json:"gzip"`
	Metadata     map[string]string `json:"metadata"`
}

type answer struct {
	Code    string `json:"code"`
	Details string `json:"details"`
	Message []byte `json:"message"`
}

// Messages pass as they are.
type raw struct{}

func (raw) Name() string                        { return "proto" }
func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func call(connection *grpc.ClientConn, asked question) answer {
	ctx := metadata.NewOutgoingContext(context.Background(), metadata.New(asked.Metadata))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(asked.Milliseconds)*time.Millisecond)
	defer cancel()
	options := []grpc.CallOption{grpc.ForceCodec(raw{})}
	if asked.Gzip {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	var got []byte
	err := connection.Invoke(ctx, asked.Method, &asked.Message, &got, options...)
	said := status.Convert(err)
	return answer{said.Code().String(), said.Message(), got}
}

func main() {
	target := flag.String("target", "", "host:port")
	flag.Parse()
	connection, err := grpc.Dial(*target,
		grpc.WithInsecure(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second}))
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		asked := question{Count: 1, Milliseconds: 20000}
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		answers := make([]answer, asked.Count)
		var all sync.WaitGroup
		for i := range answers {
			all.Add(1)
			go func(place *answer) {
				defer all.Done()
				*place = call(connection, asked)
			}(&answers[i])
		}
		all.Wait()
		if err := out.Encode(answers); err != nil {
			panic(err)
		}
	}
}
