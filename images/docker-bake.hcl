# What `scripts/images build` builds: `docker buildx bake --file images/docker-bake.hcl` does the same without its
# table of sizes, and with the versions that the environment names.

variable "ORDERS_VERSION" { default = "1.0.0" }
variable "RESERVATIONS_VERSION" { default = "1.0.0" }
variable "LOYALTY_VERSION" { default = "1.0.0" }
variable "GATEWAY_VERSION" { default = "1.0.0" }
variable "REVISION" { default = "unknown" }

group "default" {
  targets = ["orders", "reservations", "loyalty", "gateway"]
}

target "service" {
  name = image.service
  matrix = {
    image = [
      { service = "orders", version = ORDERS_VERSION },
      { service = "reservations", version = RESERVATIONS_VERSION },
      { service = "loyalty", version = LOYALTY_VERSION },
      { service = "gateway", version = GATEWAY_VERSION },
    ]
  }
  dockerfile = "images/Dockerfile"
  target     = image.service
  args       = { SERVICE = image.service, VERSION = image.version, REVISION = REVISION }
  tags       = ["souk/${image.service}:${image.version}"]
}

# All four in one image, made from theirs. It goes by the gateway's version, which is what its users see.
target "single" {
  dockerfile = "images/Dockerfile"
  target     = "single"
  args       = { SERVICE = "single", VERSION = GATEWAY_VERSION, REVISION = REVISION }
  tags       = ["souk/single:${GATEWAY_VERSION}"]
  contexts = {
    orders-image       = "target:orders"
    reservations-image = "target:reservations"
    loyalty-image      = "target:loyalty"
    gateway-image      = "target:gateway"
  }
}
