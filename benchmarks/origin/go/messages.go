// Messages and service of tidegate.v1, as protoc-gen-go would declare them for this protobuf.
package main

import (
	"context"
	"fmt"

	"github.com/golang/protobuf/proto"
	"google.golang.org/grpc"
)

// PredictRequest is one row of features.
type PredictRequest struct {
	Features             []float32 `protobuf:"fixed32,1,rep,packed,name=features,proto3"`
	ModelName            string    `protobuf:"bytes,2,opt,name=model_name,json=modelName,proto3"`
	ModelVersion         string    `protobuf:"bytes,3,opt,name=model_version,json=modelVersion,proto3"`
	Shape                []int64   `protobuf:"varint,4,rep,packed,name=shape,proto3"`
	OutputName           string    `protobuf:"bytes,5,opt,name=output_name,json=outputName,proto3"`
	XXX_NoUnkeyedLiteral struct{}  `json:"-"`
	XXX_unrecognized     []byte    `json:"-"`
	XXX_sizecache        int32     `json:"-"`
}

// PredictResponse is the model's answer to one row.
type PredictResponse struct {
	Predictions          []float32 `protobuf:"fixed32,1,rep,packed,name=predictions,proto3"`
	ModelName            string    `protobuf:"bytes,2,opt,name=model_name,json=modelName,proto3"`
	ModelVersion         string    `protobuf:"bytes,3,opt,name=model_version,json=modelVersion,proto3"`
	Shape                []int64   `protobuf:"varint,4,rep,packed,name=shape,proto3"`
	XXX_NoUnkeyedLiteral struct{}  `json:"-"`
	XXX_unrecognized     []byte    `json:"-"`
	XXX_sizecache        int32     `json:"-"`
}

// What the codec knows of each message is looked up once, as in generated code.
var requestInfo, responseInfo proto.InternalMessageInfo

func (m *PredictRequest) Reset()         { *m = PredictRequest{} }
func (m *PredictRequest) String() string { return fmt.Sprint(m.Features) }
func (*PredictRequest) ProtoMessage()    {}

func (m *PredictRequest) XXX_Unmarshal(b []byte) error { return requestInfo.Unmarshal(m, b) }
func (m *PredictRequest) XXX_Size() int                { return requestInfo.Size(m) }
func (m *PredictRequest) XXX_DiscardUnknown()          { requestInfo.DiscardUnknown(m) }
func (m *PredictRequest) XXX_Marshal(b []byte, deterministic bool) ([]byte, error) {
	return requestInfo.Marshal(b, m, deterministic)
}

func (m *PredictResponse) Reset()         { *m = PredictResponse{} }
func (m *PredictResponse) String() string { return fmt.Sprint(m.Predictions) }
func (*PredictResponse) ProtoMessage()    {}

func (m *PredictResponse) XXX_Unmarshal(b []byte) error { return responseInfo.Unmarshal(m, b) }
func (m *PredictResponse) XXX_Size() int                { return responseInfo.Size(m) }
func (m *PredictResponse) XXX_DiscardUnknown()          { responseInfo.DiscardUnknown(m) }
func (m *PredictResponse) XXX_Marshal(b []byte, deterministic bool) ([]byte, error) {
	return responseInfo.Marshal(b, m, deterministic)
}

// InferenceServer is what answers the service's one method.
type InferenceServer interface {
	Predict(context.Context, *PredictRequest) (*PredictResponse, error)
}

func predictHandler(
	server interface{},
	ctx context.Context,
	decode func(interface{}) error,
	interceptor grpc.UnaryServerInterceptor,
) (interface{}, error) {
	request := new(PredictRequest)
	if err := decode(request); err != nil {
		return nil, err
	}
	if interceptor == nil {
		return server.(InferenceServer).Predict(ctx, request)
	}
	info := &grpc.UnaryServerInfo{Server: server, FullMethod: "/tidegate.v1.Inference/Predict"}
	call := func(ctx context.Context, request interface{}) (interface{}, error) {
		return server.(InferenceServer).Predict(ctx, request.(*PredictRequest))
	}
	return interceptor(ctx, request, info, call)
}

var inferenceService = grpc.ServiceDesc{
	ServiceName: "tidegate.v1.Inference",
	HandlerType: (*InferenceServer)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Predict", Handler: predictHandler}},
	Metadata:    "tidegate_v1.proto",
}
