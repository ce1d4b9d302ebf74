// tidegate._frontend: the native front end for Python. It does not link the core, but reaches it
// through the table of the capsule that comes with each engine.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <system_error>

#include "../without_gil.hpp"
#include "server.hpp"
#include "tidegate/waist.hpp"

namespace py = pybind11;

namespace tidegate::frontend {

namespace {

Nanos nanoseconds(double duration) {
    return duration > 3e9 ? kNever : static_cast<Nanos>(duration * 1e9);
}

EngineHandle& handle_of(const py::capsule& capsule) {
    return *static_cast<EngineHandle*>(PyCapsule_GetPointer(capsule.ptr(), kCapsuleName));
}

using Layout =
    std::tuple<std::string, std::string, std::vector<std::int64_t>, std::string, std::size_t, bool>;

TensorLayout layout_of(const Layout& given) {
    TensorLayout layout;
    std::string kind;
    std::tie(layout.name, layout.datatype, layout.shape, kind, layout.item_bytes, layout.typed) =
        given;
    layout.kind = kind.at(0);
    layout.row_bytes = layout.item_bytes;
    for (const std::int64_t length : layout.shape) {
        layout.row_bytes *= static_cast<std::size_t>(length);
    }
    return layout;
}

/// The server, and the engines of all that it offers or has offered while somebody still uses it.
class Owner {
  public:
    Owner(const py::capsule& waist, const Address& address, std::uint32_t threads,
          Settings settings, const std::string& certificate, const std::string& key,
          const std::string& client_authorities)
        : waist_owner_(waist),
          server_(std::make_unique<Server>(
              std::move(settings), address, threads,
              certificate.empty() ? nullptr
                                  : make_tls_context(certificate, key, client_authorities),
              *handle_of(waist).waist)) {}

    ~Owner() {
        if (server_->ours()) {
            stop();
        } else {
            static_cast<void>(server_.release());  // the child of a fork leaks its parent's
        }
    }

    void publish(const std::vector<py::dict>& models, std::size_t count) {
        auto catalogue = std::make_shared<Catalogue>();
        catalogue->models = count;
        for (const py::dict& model : models) {
            auto offer = std::make_shared<Offer>();
            const auto capsule = model["capsule"].cast<py::capsule>();
            const EngineHandle& handle = handle_of(capsule);
            offer->waist = handle.waist;
            offer->engine = handle.engine;
            offer->lane = reinterpret_cast<Lane*>(model["lane"].cast<std::uintptr_t>());
            offer->model = model["model"].cast<std::string>();
            offer->version = model["version"].cast<std::string>();
            offer->newest = model["newest"].cast<bool>();
            offer->number = model["number"].cast<std::size_t>();
            offer->most_rows = model["most_rows"].cast<std::uint32_t>();
            if (!model["default_timeout"].is_none()) {
                offer->default_timeout = nanoseconds(model["default_timeout"].cast<double>());
            }
            for (const Layout& input : model["inputs"].cast<std::vector<Layout>>()) {
                offer->inputs.push_back(layout_of(input));
            }
            for (const Layout& output : model["outputs"].cast<std::vector<Layout>>()) {
                offer->outputs.push_back(layout_of(output));
            }
            engines_.push_back({offer, capsule});
            catalogue->offers.push_back(std::move(offer));
        }
        server_->publish(std::move(catalogue));
        // Only we hold the GIL, which letting go of an engine needs.
        std::erase_if(engines_, [](const Kept& kept) { return kept.offer.expired(); });
    }

    py::list take_events(double timeout) {
        std::vector<Event> events =
            bindings::without_gil([&]() noexcept { return server_->take(nanoseconds(timeout)); });
        py::list result;
        for (Event& event : events) {
            switch (event.kind) {
                case Event::Kind::Call: {
                    py::object left = py::none();
                    if (event.call.deadline != kNever) {
                        left = py::float_(static_cast<double>(event.call.deadline) * 1e-9);
                    }
                    result.append(py::make_tuple("call", event.call.id, event.call.path,
                                                 py::bytes(event.call.message), left));
                    break;
                }
                case Event::Kind::Cancel:
                    result.append(py::make_tuple("cancel", event.call.id));
                    break;
                case Event::Kind::NeedBuffer:
                    result.append(py::make_tuple("buffer", event.offer));
                    break;
            }
        }
        return result;
    }

    void answer(std::uint64_t id, int status, const py::bytes& text, int pushback_milliseconds) {
        server_->answer(
            {id, static_cast<GrpcStatus>(status), std::string(text), pushback_milliseconds});
    }

    void retry() { server_->retry(); }
    void drain() { server_->drain(); }
    bool drained() const { return server_->drained(); }

    void stop() {
        bindings::without_gil([&]() noexcept { server_->stop(); });
    }

    py::tuple address() const {
        return py::make_tuple(server_->address().host, server_->address().port);
    }

    py::dict statistics() const {
        const WorkerStatistics now = server_->statistics();
        py::dict result;
        result["connections"] = now.connections;
        result["accepted"] = now.accepted;
        result["requests"] = now.requests;
        result["python_requests"] = now.python_requests;
        return result;
    }

  private:
    struct Kept {
        std::weak_ptr<const Offer> offer;
        py::capsule engine;
    };
    py::capsule waist_owner_;
    std::vector<Kept> engines_;
    std::unique_ptr<Server> server_;  // last: its workers use the engines
};

}  // namespace

PYBIND11_MODULE(_frontend, module) {
    module.doc() = "The native front end of tidegate: gRPC over HTTP/2 without the GIL.";

    py::register_exception_translator([](std::exception_ptr raised) {
        try {
            std::rethrow_exception(raised);
        } catch (const std::system_error& error) {
            PyErr_SetObject(PyExc_OSError,
                            py::make_tuple(error.code().value(), error.what()).ptr());
        }
    });

    py::class_<Owner>(module, "Server", "Workers that serve what was published.")
        .def(py::init([](const py::capsule& capsule, const std::string& host, std::uint16_t port,
                         bool reuse_port, std::uint32_t threads, std::size_t max_message_bytes,
                         std::size_t max_connections, std::uint32_t max_streams,
                         double receive_timeout, double keepalive, std::vector<std::string> tokens,
                         std::vector<std::string> open_paths, std::vector<std::string> python_paths,
                         const std::string& certificate, const std::string& key,
                         const std::string& client_authorities) {
                 Settings settings;
                 settings.max_message_bytes = max_message_bytes;
                 settings.max_connection_bytes =
                     std::max(settings.max_connection_bytes, 2 * max_message_bytes);
                 settings.max_connections = max_connections;
                 settings.max_streams = max_streams;
                 settings.receive_timeout = nanoseconds(receive_timeout);
                 settings.keepalive = nanoseconds(keepalive);
                 settings.tokens = std::move(tokens);
                 settings.open_paths = std::move(open_paths);
                 settings.python_paths = std::move(python_paths);
                 return std::make_unique<Owner>(capsule, Address{host, port, reuse_port}, threads,
                                                std::move(settings), certificate, key,
                                                client_authorities);
             }),
             py::kw_only(), py::arg("capsule"), py::arg("host"), py::arg("port"),
             py::arg("reuse_port"), py::arg("threads"), py::arg("max_message_bytes"),
             py::arg("max_connections"), py::arg("max_streams"), py::arg("receive_timeout"),
             py::arg("keepalive"), py::arg("tokens"), py::arg("open_paths"),
             py::arg("python_paths"), py::arg("certificate"), py::arg("key"),
             py::arg("client_authorities"),
             "Listens at once, and serves nothing but ServerLive before publish().")
        .def_property_readonly("address", &Owner::address, "Host and port.")
        .def("publish", &Owner::publish, py::arg("models"), py::arg("count"),
             "Replaces what is on offer: `models` natively, `count` in all.")
        .def("take_events", &Owner::take_events, py::arg("timeout"),
             "What Python is to do; waits for it at most `timeout` seconds.")
        .def("answer", &Owner::answer, py::arg("number"), py::arg("status"), py::arg("text"),
             py::arg("pushback_milliseconds") = 0,
             "Answers a call: the message, or with another status than 0 what it means.")
        .def("retry", &Owner::retry, "There is memory for another batch.")
        .def("drain", &Owner::drain, "Takes no more connections or requests.")
        .def_property_readonly("drained", &Owner::drained, "No connection is left.")
        .def("stop", &Owner::stop, "Ends the workers and cuts off what is open.")
        .def("statistics", &Owner::statistics, "Counters of all workers.");
}

}  // namespace tidegate::frontend
